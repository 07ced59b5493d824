"""What is wrong with image files, and between an image and its mask.

In: the facts of a case. Out: faults.
"""

from __future__ import annotations

from refineseg.data.checks.facts import CaseFacts
from refineseg.data.checks.kinds import Fault
from refineseg.data.samples.sample import same_shape


def file_faults(facts: CaseFacts, *, image_name: str, mask_name: str) -> list[Fault]:
    """The faults of one case that its classes have no part in.

    Args:
        facts: Facts of the case.
        image_name: How the image is named in faults.
        mask_name: How the mask is named in faults.
    """
    image, mask = facts.image, facts.mask
    if image is None:
        return []
    if image.problem:
        return [Fault("unreadable_image", image_name, image.problem)]
    faults = []
    if image.largest >= 0:
        bits = max(image.largest.bit_length(), 1)
        faults.append(Fault("sixteen_bit_image", image_name, f"values up to {image.largest} ({bits} bits)"))
    if image.one_of_many:
        faults.append(Fault("several_pictures", image_name, "an animation, or pages; the first is read"))
    if mask is None or mask.problem:
        return faults
    if mask.hw != image.hw:
        (height, width), (mask_height, mask_width) = image.hw, mask.hw
        sizes = f"mask {mask_height}x{mask_width}, image {height}x{width} (height x width)"
        if image.orientation != 1 and mask.hw == image.stored_hw:
            faults.append(Fault("rotated_image", image_name, f"EXIF orientation {image.orientation}: {sizes}"))
        else:
            action = "scale the mask to the size of the image (--fix does)" if same_shape(mask.hw, image.hw) else ""
            faults.append(Fault("size_mismatch", mask_name, sizes, action))
    elif facts.fits_stored:
        detail = f"EXIF orientation {image.orientation}: the mask fits the pixels as they are stored"
        faults.append(Fault("rotated_image", image_name, detail))
    return faults
