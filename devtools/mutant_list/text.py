"""Mutants of the cleaning of prompts."""

from .mutant import mutants_of

TEXT_TESTS = "tests/test_text_cleaning.py::"

TEXT = [
    *mutants_of(
        "text/cleaning.py",
        (f"{TEXT_TESTS}test_golden_pairs", f"{TEXT_TESTS}test_release_pairs"),
        ("cleaned-once", "rules applied once instead of twice", "for _ in range(2):", "for _ in range(1):"),
        ("upper-case", "prompts in capitals", '("case", str.lower)', '("case", str.upper)'),
        (
            "plain-not-lower",
            "a prompt that is not cleaned keeps its capitals",
            "return text.lower().strip()",
            "return text.strip()",
        ),
        (
            "quotes-kept",
            "two quotes in a row are kept",
            "'\"', shortest=2)",
            "'\"', shortest=3)",
        ),
    ),
    *mutants_of(
        "text/words.py",
        f"{TEXT_TESTS}test_release_pairs",
        (
            "slug-joins",
            "words with three hyphens are split",
            "if joins > 3 else text",
            "if joins > 2 else text",
        ),
        ("long-numbers", "numbers of five digits are deleted", "len(word) >= 6", "len(word) >= 5"),
        (
            "serial-numbers",
            "words such as rover417 are deleted",
            "shape[0][1] <= 3 and",
            "shape[0][1] <= 5 and",
        ),
    ),
    *mutants_of(
        "text/characters.py",
        f"{TEXT_TESTS}test_release_pairs",
        (
            "ideographs-kept",
            "ideographs above U+7FFF are kept",
            '"\\u31c0" <= c <= "\\u9fff"',
            '"\\u31c0" <= c <= "\\u7fff"',
        ),
    ),
]
