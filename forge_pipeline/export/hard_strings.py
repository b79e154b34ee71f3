"""Texts on which two tokenizers of the same vocabulary come apart, by what makes them hard.

Left out: text that is not in Unicode's NFC form. llama.cpp does not normalize, so it splits such text in
another way for tokenizers that do (Qwen's); see `tokenizer_metadata`.
"""

from collections.abc import Mapping
from typing import Final

HARD_STRINGS: Final[Mapping[str, str]] = {
    "contractions and numbers": "It's 3.14159, isn't it? We'LL see: 1234567890 and 007.",
    "long numbers": "0 00 000 0000 1,234,567.89 -1e-10 0x1F600 12:34:56 2026-11-22 1/2 50% $9.99 v1.2.3-rc.4",
    "blanks and line ends": "  leading, trailing  and   inner    blanks\t\ttabs \n\n\nlines\r\nof Windows  ",
    "runs of blanks": " \n  \n   \n    \t \t\t \n\t\n a  b   c    d     e                    f\n\n\n\n\n\ng",
    "blanks alone": "      ",
    "line ends alone": "\n\n\n",
    "old line ends": "carriage\rreturn\r\r\nform\ffeed\vvertical",
    "Latin letters with marks": "naïve café, Zürich, Ærøskøbing, São Tomé, ŁÓDŹ, İstanbul, ﬁ ligature",
    "Chinese, Japanese, Korean": "人工智能 改变世界。日本語のテスト、カタカナ。한국어 문장입니다.",
    "rare ideographs": "𠮷野家 𪚥 㐀 〇 々 〜 ｆｕｌｌ　ｗｉｄｔｈ１２３",
    "many scripts": "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم ٣٤٥. नमस्ते दुनिया १२३",
    "right to left with marks": "\u202bשָׁלוֹם\u202c עֲלֵיכֶם \u200fالسَّلَامُ عَلَيْكُمْ\u200e abc \u2067١٢٣\u2069",
    "Thai, Tamil, Khmer, Ethiopic": "สวัสดีชาวโลก வணக்கம் உலகம் សួស្តីពិភពលោក ሰላም ለዓለም",
    "emoji, joined and coloured": "👩‍👩‍👧‍👦 🇪🇺 👍🏽 ☃️ ⅷ ½ ² ₂ ①",
    "emoji without blanks": "ok👍🏿👨🏽‍💻🏳️‍🌈🏴󠁧󠁢󠁳󠁣󠁴󠁿❤️‍🔥1️⃣#️⃣🫠",
    "marks upon marks": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
    "Python": "def f(x_1: int)->str:\n\treturn f'{x_1!r}'  # TODO\n\nif __name__=='__main__':pass",
    "C": '#include <stdio.h>\nint main(){printf("%d\\n",1<<3);}',
    "shell": '$ for i in *.{c,h};do echo "${i%%.*}";done && rm -rf ./-x',
    "JSON": '{"a":[1,2.5e3,null,true],"b":"\\u00e9\\n"}',
    "LaTeX": "\\frac{\\partial f}{\\partial x_{ij}} \\\\ $$\\sum_{i=1}^{n}$$",
    "addresses and markup": "https://example.org/a-b_c?d=e&f=%20#g <b>&amp;</b> C:\\Windows\\System32",
    "invisible characters": "A\u00a0no-break\u2003em\u200bzero-width\u200djoiner\ufeffmark",
    "control characters": "bell\x07 escape\x1b[31mred\x1b[0m back\x08space delete\x7f start\x01 unit\x1f next\x85line",
    "private and unassigned": "\ue000\uf8ff \U000f0000 \U000e0041 \ufffd \uffff \U0001fbff",
    "repetition": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!!???? ....----====",
    "case": "HTTPServerError iPhone McDonald's eBay O'NEIL's ÉCOLE ǅ ß ẞ SS ſ K Å",
    "what looks like special tokens": "<|endoftext|> < |im_start|> <|im_end |> <|user|>\n<|eot_id|> <|tool_call|>",
    "markers of other models": "<s></s> [INST]x[/INST] <unk> <pad> <mask> <<SYS>> <start_of_turn>",
    "what looks like byte tokens": "<0x0A><0x41> <0x00> \\x41 %41 &#65; U+0041 ▁▁under ▁ĠĊ Ġ",
    "a turn": "<|im_start|>user\n  Hi <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nOh<|im_end|>",
}  # fmt: skip
