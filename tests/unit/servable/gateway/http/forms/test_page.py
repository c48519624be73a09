"""The page of the HTTP port, as bytes; a browser looks at it in tests/e2e."""

import base64
import hashlib
import re

from servable.gateway.http.forms.page import HEADERS, PAGE

TEXT = PAGE.decode()
EXAMPLES = re.findall(r"<pre.*?</pre>", TEXT, re.DOTALL)


def test_the_policy_names_the_pages_own_script_and_style_and_allows_no_other():
    policy = dict(part.split(" ", 1) for part in HEADERS["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", TEXT, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"


def test_the_page_loads_nothing_from_elsewhere():
    outside = TEXT
    for example in EXAMPLES:
        outside = outside.replace(example, "")
    assert not re.findall(r'\b(?:src|href)="(?!data:|openapi\.json)[^"]*"', outside)
    assert set(re.findall(r"https?://[^\s\"'<]*", outside)) == {"http://127.0.0.1:5502", "http://127.0.0.1:5502."}


def test_the_page_has_no_handler_or_style_in_an_attribute_which_the_policy_would_forbid():
    assert not re.findall(r"<[^>]*\s(?:on\w+|style)=", TEXT.split("<script>")[0])


def test_the_script_never_makes_html_of_text():
    script = TEXT.split("<script>")[1]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "localStorage"):
        assert way not in script


def test_there_are_examples_in_five_languages_with_a_token_each_where_it_is_not_the_clients_own_doing():
    assert len(EXAMPLES) == 6
    assert [("METRIC_LEARN_TOKEN" in example) for example in EXAMPLES] == [True, True, False, True, True, True]
