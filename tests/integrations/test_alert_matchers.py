"""Matchers: how they are read in Alertmanager's notations, and what they match."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import re2  # type: ignore[import-untyped]
from codomyrmex.integrations.configuration.matchers import RegexSet
from codomyrmex.integrations.configuration.simple_regex import simplify
from codomyrmex.integrations.notification import (
    Matcher,
    MatcherError,
    load_alert_config,
    parse_matchers,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

NOTATIONS = ("classic", "fallback", "utf8")
BAD = "an error"


def read(text: str, notation: Any) -> Any:
    """Return name, operator and value of each matcher in one list, or `BAD`."""
    try:
        return [part for each in parse_matchers(text, notation) for part in (each.name, each.op, each.value)]
    except MatcherError:
        return BAD


def error_of(text: str, notation: Any) -> MatcherError:
    with pytest.raises(MatcherError) as raised:
        parse_matchers(text, notation)
    return raised.value


# What Alertmanager 0.25 reads, 0.28 as it comes, and 0.28 in its strict UTF-8 mode.
CORPUS: list[tuple[str, Any, Any, Any]] = [
    ("", [], [], []),
    ("{}", [], [], []),
    ("foo=", ["foo", "=", ""], ["foo", "=", ""], BAD),
    ("foo=a b", ["foo", "=", "a b"], ["foo", "=", "a b"], BAD),
    ('{foo="bar"', ["foo", "=", "bar"], ["foo", "=", "bar"], BAD),
    ('foo="bar"}', ["foo", "=", "bar"], ["foo", "=", "bar"], BAD),
    ('foo="bar",', ["foo", "=", "bar"], ["foo", "=", "bar"], ["foo", "=", "bar"]),
    ('foo="bar",,', BAD, BAD, BAD),
    ("foo=bar=baz", ["foo", "=", "bar=baz"], ["foo", "=", "bar=baz"], BAD),
    ("foo==bar", ["foo", "=", "=bar"], ["foo", "=", "=bar"], BAD),
    ("foo=!bar", ["foo", "=", "!bar"], ["foo", "=", "!bar"], BAD),
    (r'foo=~"\d+"', ["foo", "=~", r"\d+"], ["foo", "=~", r"\d+"], BAD),
    (r'foo=~"\\d+"', ["foo", "=~", r"\d+"], ["foo", "=~", r"\d+"], ["foo", "=~", r"\d+"]),
    ("foo=~a{2}", ["foo", "=~", "a{2"], ["foo", "=~", "a{2"], BAD),
    ('"foo bar"=x', BAD, ["foo bar", "=", "x"], ["foo bar", "=", "x"]),
    ("foo.bar=x", BAD, ["foo.bar", "=", "x"], ["foo.bar", "=", "x"]),
    ("foo-bar=x", BAD, ["foo-bar", "=", "x"], ["foo-bar", "=", "x"]),
    ("föö=x", BAD, ["föö", "=", "x"], ["föö", "=", "x"]),
    ("0foo=x", BAD, ["0foo", "=", "x"], ["0foo", "=", "x"]),
    (
        r'foo="\xf0\x9f\x99\x82"',
        ["foo", "=", r"\xf0\x9f\x99\x82"],
        ["foo", "=", r"\xf0\x9f\x99\x82"],
        ["foo", "=", "🙂"],
    ),
    ("foo='bar'", ["foo", "=", "'bar'"], ["foo", "=", "'bar'"], BAD),
    ("foo=`bar`", ["foo", "=", "`bar`"], ["foo", "=", "`bar`"], BAD),
    # From Alertmanager's own tests of both parsers.
    ("{,}", BAD, BAD, BAD),
    (",", BAD, BAD, BAD),
    ("{", [], [], BAD),
    ("}", [], [], BAD),
    ("{foo=bar}}", ["foo", "=", "bar}"], ["foo", "=", "bar}"], BAD),
    ("{foo=}b", ["foo", "=", "}b"], ["foo", "=", "}b"], BAD),
    ("{foo=,bar=}}", ["foo", "=", "", "bar", "=", "}"], ["foo", "=", "", "bar", "=", "}"], BAD),
    ("{foo=🙂bar}", ["foo", "=", "🙂bar"], ["foo", "=", "🙂bar"], ["foo", "=", "🙂bar"]),
    ('{"foo"!~"[a-z]+",}', BAD, ["foo", "!~", "[a-z]+"], ["foo", "!~", "[a-z]+"]),
    ("{foo=~[a-z]+}", ["foo", "=~", "[a-z]+"], ["foo", "=~", "[a-z]+"], ["foo", "=~", "[a-z]+"]),
    ("tricky=~~~", ["tricky", "=~", "~~"], ["tricky", "=~", "~~"], BAD),
    (r"t==\\=\=\"", ["t", "=", r"=\=\=" + '"'], ["t", "=", r"=\=\=" + '"'], BAD),
    (r"foo=bar\n", ["foo", "=", "bar\n"], ["foo", "=", "bar\n"], BAD),
    (r"foo=bar\t", ["foo", "=", r"bar\t"], ["foo", "=", r"bar\t"], BAD),
    (r'foo="bar\n"', ["foo", "=", "bar\n"], ["foo", "=", "bar\n"], ["foo", "=", "bar\n"]),
    (r'foo="bar\t"', ["foo", "=", r"bar\t"], ["foo", "=", r"bar\t"], ["foo", "=", "bar\t"]),
    (r'foo="\"a\\"', ["foo", "=", '"a\\'], ["foo", "=", '"a\\'], ["foo", "=", '"a\\']),
    (r'foo="\U0001f642"', ["foo", "=", r"\U0001f642"], ["foo", "=", r"\U0001f642"], ["foo", "=", "🙂"]),
    (r'foo="\xf0\x9f"', ["foo", "=", r"\xf0\x9f"], ["foo", "=", r"\xf0\x9f"], BAD),
    ('foo="a\nb"', ["foo", "=", "a\nb"], ["foo", "=", "a\nb"], BAD),
    ('job="value', BAD, BAD, BAD),
    ('job=value"', BAD, BAD, BAD),
    ('{foo=~"invalid[regexp"}', BAD, BAD, BAD),
    ("foo", BAD, BAD, BAD),
    ("=x", BAD, BAD, BAD),
    ("{{foo=bar}}", BAD, BAD, BAD),
    ("a:b=c", ["a:b", "=", "c"], ["a:b", "=", "c"], ["a:b", "=", "c"]),
    (
        '{ a = "x,y" , b!~ "5.." ,\n}',
        ["a", "=", "x,y", "b", "!~", "5.."],
        ["a", "=", "x,y", "b", "!~", "5.."],
        ["a", "=", "x,y", "b", "!~", "5.."],
    ),
]


@pytest.mark.parametrize(
    ("text", "classic", "fallback", "utf8"), CORPUS, ids=[repr(row[0]) for row in CORPUS]
)
def test_each_text_is_read_as_alertmanager_reads_it_in_each_notation(text, classic, fallback, utf8):
    found = {notation: read(text, notation) for notation in NOTATIONS}
    assert found == {"classic": classic, "fallback": fallback, "utf8": utf8}


def test_both_notations_are_tried_unless_one_is_asked_for():
    assert parse_matchers("foo=a b") == parse_matchers("foo=a b", "classic")
    assert parse_matchers("foo.bar=x") == parse_matchers("foo.bar=x", "utf8")


@pytest.mark.parametrize(
    ("text", "notation", "column", "message"),
    [
        ('foo="bar",,', "classic", 10, "'' is not a matcher like name=\"value\", with =, !=, =~ or !~"),
        ("a=1,,b=2", "classic", 4, "'' is not a matcher"),
        ("{a=1,b}", "classic", 5, "'b' is not a matcher"),
        ("foo.bar=x", "classic", 0, "'foo.bar=x' is not a matcher"),
        ('foo="a', "classic", 4, "no closing quote"),
        (r'foo="a\"', "classic", 4, "no closing quote"),
        ('foo=a"b', "classic", 5, "contains a double quote that is not escaped"),
        ('a=1,foo=~"("', "classic", 9, "'(' is not a regular expression of RE2: missing )"),
        ("foo=", "utf8", 4, "expected a label value, got the end"),
        ("foo=a b", "utf8", 6, "expected a comma, got 'b'"),
        ("{foo=a b}", "utf8", 7, "expected a comma or }, got 'b'"),
        ('{foo="bar"', "utf8", 0, "the opening brace is not closed"),
        ('foo="bar"}', "utf8", 9, "expected a comma, got '}'"),
        ('foo="bar",,', "utf8", 10, "expected a label name, got ','"),
        ("foo=bar=baz", "utf8", 7, "expected a comma, got '='"),
        ("foo==bar", "utf8", 4, "expected a label value, got '='"),
        (r'foo=~"a\d+"', "utf8", 7, r"\d is not an escape; a backslash is written \\"),
        ("foo=~a{2}", "utf8", 6, "expected a comma, got '{'"),
        ("foo='bar'", "utf8", 4, 'expected a label value, got "\'"'),
        ('foo="bar', "utf8", 4, "the opening quote is not closed"),
        ("{}foo", "utf8", 2, "expected the end, got 'f'"),
        ("{foo=x}}", "utf8", 7, "expected the end, got '}'"),
        ("foo", "utf8", 3, "expected =, !=, =~ or !~ after foo, got the end"),
        ("foo~x", "utf8", 3, "expected =, !=, =~ or !~ after foo, got '~'"),
        ('a=1, ""=x', "utf8", 7, "the label name is empty"),
        (r'foo="\xff"', "utf8", 5, "not valid UTF-8"),
        (r'foo="\400"', "utf8", 5, r"\400 is not an escape"),
        (r'foo="\ud800"', "utf8", 5, r"\ud800 is not an escape"),
        (r'foo="\U00110000"', "utf8", 5, r"\U00110000 is not an escape"),
        (r'foo="\x1"', "utf8", 5, r"\x is not an escape"),
        ('foo=~"["', "utf8", 5, "'[' is not a regular expression of RE2: missing ]"),
        ('foo="bar",,', "fallback", 10, "expected a label name, got ','"),
        ('foo=~"("', "fallback", 5, "'(' is not a regular expression of RE2: missing )"),
    ],
)
def test_an_error_has_what_was_expected_and_the_column(text, notation, column, message):
    error = error_of(text, notation)
    assert (error.column, message in str(error)) == (column, True), str(error)


@pytest.mark.parametrize("pattern", ["(?=a)", "(?!a)b", "(?<=a)b", r"(a)\1"])
def test_look_around_and_back_references_are_errors_that_say_why(pattern):
    with pytest.raises(MatcherError, match="RE2 has neither look-around nor back-references"):
        Matcher("foo", "=~", pattern)


def test_a_matcher_has_a_name_and_a_known_operator():
    with pytest.raises(MatcherError, match="the label name is empty"):
        Matcher("", "=", "x")
    with pytest.raises(ValueError, match="=="):
        Matcher("foo", "==", "x")


def notes_on(text: str) -> list[str]:
    config = load_alert_config(
        {"route": {"receiver": "r", "routes": [{"matchers": [text]}]}, "receivers": [{"name": "r"}]}
    )
    return [note.message for note in config.notes]


def test_what_only_the_classic_notation_reads_is_noted_with_what_to_write():
    (note,) = notes_on(r'foo=~"\d+"')
    assert note.startswith("only the classic notation accepts this")
    assert note.endswith(r'write foo=~"\\d+"')
    assert notes_on("foo=") == [
        'only the classic notation accepts this (expected a label value, got the end); write foo=""'
    ]


def test_what_the_notations_read_differently_is_noted_with_both():
    assert notes_on(r'foo="\x41"') == [
        r'read as foo="\\x41", while the UTF-8 notation would read foo="A"',
    ]


def test_what_both_notations_read_alike_or_only_the_new_one_reads_is_not_noted():
    assert notes_on('foo="bar"') == notes_on("foo.bar=x") == notes_on("") == []


# What matches


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ('team="a"', {"team": "a"}, True),
        ('team="a"', {}, False),
        ('team=""', {}, True),
        ('team!="b"', {}, True),
        ('team!=""', {}, False),
        ('team!=""', {"team": ""}, False),
        ('x=~".*"', {}, True),
        ('x=~".+"', {}, False),
        ('x!~"a|"', {}, False),
        ('x!~"a|b"', {}, True),
        ('x=~"a|b"', {"x": "ab"}, False),
        ('env=~"prod.*"', {"env": "preprod"}, False),
        ('env=~"prod.*"', {"env": "production"}, True),
        ('x=~"(?i)yes"', {"x": "YES"}, True),
        ('x=~"a.b"', {"x": "a\nb"}, False),
        ('x=~"a"', {"x": "a\n"}, False),
        (r'x=~"\d"', {"x": "٣"}, False),  # an Arabic digit; RE2's \d is ASCII
        ('x=~"^a$"', {"x": "a"}, True),
    ],
)
def test_a_matcher_holds_as_in_alertmanager(text, labels, matches):
    (matcher,) = parse_matchers(text)
    assert matcher.matches(labels) is matches


def test_equal_matchers_are_the_same_in_a_set_and_sort_by_name_and_value():
    assert len({Matcher("a", "=", "x"), Matcher("a", "=", "x"), Matcher("a", "!=", "x")}) == 2
    assert Matcher("a", "=", "x") != "a=x"
    found = sorted(parse_matchers('b="1", a="2", a=~"1"'))
    assert [str(matcher) for matcher in found] == ['a=~"1"', 'a="2"', 'b="1"']
    assert repr(found[0]) == 'Matcher(a=~"1")'


@pytest.mark.parametrize("text", ["a=x", "a!=x", 'a=~"x.*"', 'a!~"(?i)x|y"'])
def test_a_matcher_can_be_copied_and_pickled(text):
    (matcher,) = parse_matchers(text)
    for copied in (copy.deepcopy(matcher), pickle.loads(pickle.dumps(matcher))):
        assert copied == matcher
        assert copied.matches({"a": "xy"}) is matcher.matches({"a": "xy"})


# Laws

law = settings(deadline=None)
ops = st.sampled_from(["=", "!=", "=~", "!~"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text('\\"\n,{}=~! abx', max_size=8)
classic_names = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,5}", fullmatch=True)


def compiles(pattern: str) -> bool:
    try:
        return Matcher("x", "=~", pattern) is not None
    except MatcherError:  # such as of `^b*?*`
        return False


fragments = st.sampled_from(
    [
        *("", "a", "b", "ab", "é", ".", ".*", ".+", "[ab]", "[^a]", r"\d", r"\n", r"\.", "a*", "b?", "a{2}"),
        *("|", "(a|b)", "(?:ab)+", "^a", "b$", r"\bab", "(?i)a", "(?s).", "(?m)^b$"),
        *(
            "(a|ab)",
            "(b|)?",
            "()",
            "((a|b)|1)",
            "[^ab]*",
            "[]a]",
            "[^]a]",
            "[ab-]+",
            "[+--]",
            "[é]",
            r"[\d-]+",
            r"[a\]^]",
        ),
        *(r"\w", r"\D*", r"\?", "a??", "b*?", "-(a|b1)", "a+", "1", "{", "]", "[[:digit:]]", r"\pL", "(?i)"),
    ]
)
regexes = st.lists(fragments, min_size=1, max_size=5).map("".join).filter(compiles)
values = st.text("ab", max_size=5) | st.text("abAB1.-?]\né\ud800", max_size=5)


def a_matcher(name: str, op: str, text: str, regex: str) -> Matcher:
    return Matcher(name, op, regex if "~" in op else text)


@law
@given(classic_names, ops, texts, regexes)
def test_a_matcher_as_text_is_the_same_matcher_in_every_notation(name, op, text, regex):
    matcher = a_matcher(name, op, text, regex)
    assert [parse_matchers(str(matcher), notation) for notation in NOTATIONS] == [[matcher]] * 3


@law
@example([("a<", "=", "b", "")])
@given(st.lists(st.tuples(texts.filter(bool), ops, texts, regexes), min_size=1, max_size=3))
def test_matchers_with_any_names_as_text_are_the_same_matchers_in_the_newer_notations(parts):
    matchers = [a_matcher(*part) for part in parts]
    text = f"{{{', '.join(map(str, matchers))}}}"
    assert parse_matchers(text, "utf8") == matchers
    assert parse_matchers(text, "fallback") == matchers


@law
@given(ops, texts, regexes)
def test_a_missing_label_is_the_same_as_an_empty_one(op, text, regex):
    matcher = a_matcher("x", op, text, regex)
    assert matcher.matches({}) is matcher.matches({"x": ""}) is matcher.holds("")


@law
@given(texts, regexes, values)
def test_the_negative_operators_are_the_opposite_of_the_positive_ones(text, regex, value):
    assert Matcher("x", "=", text).holds(value) is not Matcher("x", "!=", text).holds(value)
    assert Matcher("x", "=~", regex).holds(value) is not Matcher("x", "!~", regex).holds(value)


@law
@given(st.lists(regexes, max_size=8), st.lists(values, min_size=1, max_size=4))
def test_a_set_of_expressions_matches_what_each_of_them_matches_alone(patterns, some_values):
    together = RegexSet(patterns)
    for value in [*some_values, *some_values]:  # the second time from memory
        assert together.matching(value) == {each for each in patterns if matches(each, value)}


def matches(pattern: str, value: str) -> bool:
    """Return what RE2 says, which gets a `?` for half a character."""
    return re2.search(f"^(?:{pattern})$", value.encode(errors="replace").decode()) is not None


@settings(deadline=None, max_examples=500)
@given(regexes, st.lists(values, min_size=1, max_size=10))
def test_an_expression_matches_the_same_as_re2(pattern, some_values):
    for value in some_values:
        assert Matcher("x", "=~", pattern).holds(value) is matches(pattern, value)


@pytest.mark.parametrize(
    "pattern",
    [
        *("prod.*", ".*prod", ".*prod.*", ".+", "Kube.+|Node.+", "^a.*$", "web-[0-9]+", r"10\.0\..*", "a?b"),
        *("[a-z]+-[0-9a-f]+-.*", "eu-(west|east)-[0-9]", "team-[a-z]+(-canary)?", ".*-(dev|test)", r"\d+.*"),
        *("web.*-prod.*", ".*[0-9]", "a+?", "(?:a|b)?c", r"\w+"),
    ],
)
def test_an_expression_with_one_way_to_match_needs_no_re2(pattern):
    assert simplify(pattern).pattern is not None
    assert Matcher("x", "=~", pattern).is_simple


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+", "(a|ab)*", "a*a*b", "[a-z]+x", "(a|aa)b", r"\w+\d", ".*a+", ".*[a-z]+-.*", ".*(ab|c).*"),
        *("a?a", "(a|b)+", "a{1,9}", f"{'a' * 300}.*"),
    ],
)
def test_an_expression_with_several_ways_to_match_is_left_to_re2(pattern):
    assert simplify(pattern).pattern is None


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("a|b", {"a", "b"}),
        ("(a|b)", {"a", "b"}),
        ("^(?:eu|us)-(1|2)$", {"eu-1", "eu-2", "us-1", "us-2"}),
        (r"a\.b", {"a.b"}),
        ("a(b|)c?", {"a", "ab", "ac", "abc"}),
        ("", {""}),
        ("[ab]", None),  # it could also be [^ab], which matches more than ASCII
        (r"a\?", None),
        ("a*", None),
        ("(a|b|c|d)" * 4, None),
    ],
)
def test_an_expression_with_few_texts_is_a_list(pattern, texts):
    assert simplify(pattern).texts == texts


@law
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\.+*?()|[]{}^$"), max_size=3),
        min_size=1,
        max_size=5,
    ),
    st.data(),
)
def test_a_list_of_literal_alternatives_matches_the_same_as_re2(choices, data):
    pattern = "|".join(choices)
    value = data.draw(st.sampled_from([*choices, pattern, "", f"{choices[0]}\n"]) | texts)
    expected = re2.search(f"^(?:{pattern})$", value) is not None
    assert Matcher("x", "=~", pattern).holds(value) is expected
    assert Matcher("x", "!~", pattern).holds(value) is not expected


@pytest.mark.parametrize("text", ["value>=5", "value<=5", 'a=b, value>="5"', "{data.status>=500}"])
def test_a_comparison_of_numbers_is_an_error_that_names_the_operators(text):
    with pytest.raises(
        MatcherError, match=r"[<>]= is not an operator; a matcher compares text, with =, !=, =~ or !~"
    ):
        parse_matchers(text)
    assert [str(each) for each in parse_matchers('"value>"=5')] == ['"value>"="5"']
