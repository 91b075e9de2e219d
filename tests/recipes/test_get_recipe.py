"""Recipes by name, and a user's own."""

import pytest

from tailseg.recipes import get_recipe


def test_an_unknown_name_gets_close_matches():
    with pytest.raises(ValueError, match=r"tiny_gumble.*did you mean tiny_gumbel.*module:function"):
        get_recipe("tiny_gumble")


def test_a_name_unlike_any_gets_the_list():
    with pytest.raises(ValueError, match="there are tiny_gumbel, tiny_sigmoid"):
        get_recipe("zzz")


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_recipes_for_a_test.py").write_text(
        "from dataclasses import replace\n"
        "from tailseg.recipes import get_recipe\n"
        "def good(): return replace(get_recipe('tiny_gumbel'), name='good')\n"
        "def bad(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert get_recipe("my_recipes_for_a_test:good").name == "good"
    with pytest.raises(ValueError, match="return a Recipe, got int"):
        get_recipe("my_recipes_for_a_test:bad")
    with pytest.raises(ValueError, match="has no 'absent'"):
        get_recipe("my_recipes_for_a_test:absent")
    with pytest.raises(ValueError, match="no module is called 'no_such_module'.*PYTHONPATH$"):
        get_recipe("no_such_module:good")
    with pytest.raises(ValueError, match="write it as my_recipes:good. Start tailseg in the folder"):
        get_recipe("folder/my_recipes.py:good")
