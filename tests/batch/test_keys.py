"""Names of results: none leaves the folder of results, and no two inputs share one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refineseg.batch.keys import Part, is_hidden, is_nested, key_hash, output_key
from refineseg.errors import ConfigError
from refineseg.predict.outputs.kinds import KINDS

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
PARTS = st.sampled_from(["", ".", "..", "a", "%", "%2E", "%25", "a%", "\n", "\\", "ä", "a:b", "x" * 300, "x" * 301])
KEYS = st.builds(
    "{}{}".format, st.lists(PARTS | TEXT, min_size=1, max_size=4).map("/".join), st.sampled_from([".jpg", ".png"])
)
ENDINGS = sorted({ending for kind in KINDS.values() for ending in kind.endings.values()})


@given(KEYS, KEYS)
def test_different_inputs_never_share_a_result(one, other):
    results = [{output_key(key) + ending for ending in ENDINGS} for key in (one, other)]
    assert one == other or not results[0] & results[1]


@given(KEYS)
def test_a_result_is_a_file_below_its_folder(key):
    for part in output_key(key).split("/"):
        assert part not in ("", ".", "..")
        assert not set(part) & {*map(chr, range(32)), "\\", "\x7f"}
        assert len((part + max(ENDINGS, key=len)).encode()) <= 255


@pytest.mark.parametrize(
    ("key", "expected"),
    [("a.jpg", "a.jpg"), ("b c/ü.png", "b c/ü.png"), ("../x.png", "%2E%2E/x.png"), ("a//50%.png", "a/%/50%25.png")],
)
def test_usual_names_stay(key, expected):
    assert output_key(key) == expected


@given(st.sets(TEXT, min_size=1), st.integers(1, 9))
def test_every_input_is_of_one_part(keys, count):
    parts = [Part(index, count) for index in range(1, count + 1)]
    for key in keys:
        assert [part.has(key_hash(key)) for part in parts].count(True) == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_wrong_parts_are_refused(text):
    with pytest.raises(ConfigError, match="expected a part"):
        Part.parse(text)


def test_hidden_names_are_those_of_a_folder():
    assert [is_hidden(key) for key in (".a.png", "x/.b/c.png", "../a.png", "./a.png", "a.b.png")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("one", "other", "nested"),
    [
        ("s3://b/in", "s3://b/out", False),
        ("s3://b/in", "s3://b/in/out", True),
        ("s3://b/in/", "s3://b/in", True),
        ("s3://b/in", "s3://b/input", False),
        ("s3://b/in", "gs://b/in", False),
        ("in", "in/../in/out", True),
    ],
)
def test_folders_in_each_other_are_known(one, other, nested):
    assert is_nested(one, other) is is_nested(other, one) is nested
