import pytest

from tailseg.words import count_noun, count_part, verb_form


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1200, "image", "1,200 images"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (2, "category", "2 categories"),
        (2, "key", "2 keys"),
        (2, "box", "2 boxes"),
        (12, "epoch", "12 epochs"),
    ],
)
def test_numbers_come_with_the_noun_in_the_form_that_fits(count, noun, text):
    assert count_noun(count, noun) == text


def test_an_irregular_plural_can_be_given():
    assert count_noun(2, "vertex", "vertices") == "2 vertices"
    assert count_noun(1, "vertex", "vertices") == "1 vertex"


def test_verbs_agree_with_the_number():
    assert [verb_form(count, "has", "have") for count in (0, 1, 2)] == ["have", "has", "have"]


def test_a_part_of_all():
    assert [count_part(1, 1, "image"), count_part(3, 1200, "class")] == ["1 of 1 image", "3 of 1,200 classes"]
