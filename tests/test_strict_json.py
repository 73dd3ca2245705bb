import pytest

from advgrpo.strict_json import RepeatedKeyError, load_json, load_json_object, unique_keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice$"),
        ('{"a": {"b": 1},\n "a": {"b": 2}}', "'a' occurs twice, in lines 1 and 2$"),
        ('[{"a": 1},\n{"a": 1, "b": 0, "a": 2}\n]', "'a' occurs twice, in line 2$"),
        # Equal after decoding, and a value that looks like a key.
        ('{"\\u0061": "\\"a\\": 1",\n"b": "a:",\n"a" : 2}', "'a' occurs twice, in lines 1 and 3$"),
        ('{"a:b": 1,\n"a:b": 2}', "'a:b' occurs twice, in lines 1 and 2$"),
    ],
)
def test_a_repeated_key_is_refused_with_its_lines(text: str, message: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(RepeatedKeyError, match=message):
            load_json(given)
        with pytest.raises(ValueError, match=message):
            unique_keys(given)


def test_equal_keys_of_different_objects_are_not_repeated() -> None:
    text = '[{"a": 1, "b": {"a": 2}}, {"a": 3}]'
    assert load_json(text) == [{"a": 1, "b": {"a": 2}}, {"a": 3}]
    assert unique_keys(text) is text


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff", '["a"]'])
def test_every_fault_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json_object(text)
