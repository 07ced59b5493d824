"""Files for other runtimes, and their acceptance on real images.

Called, it is the function :func:`refineseg.api.export.export`.
"""

from refineseg._calling import make_callable

make_callable(__name__)
