"""The messages that users of the command meet most, in Chinese where the locale is.

`TABLE` is all there is: an English message as the code says it, `{}` for each value in it, and the Chinese one, where
`{0}` and so on name the values. A message that is not in the table stays English. A test looks for every message of the
table in the code, so one that is changed there must be changed here.
"""

from __future__ import annotations

import functools
import os
import re
import sys

TABLE = {
    # suzoo --help
    "Use, check and publish suzoo's models.": "使用、检查和发布 suzoo 的模型。",
    "Train a model: suzoo train cosent quickstart --output-dir out/x.": "训练模型：suzoo train cosent quickstart "
    "--output-dir out/x。",
    "Texts to vectors, in the order given.": "把文本变成向量，顺序不变。",
    "Order documents by their score for a query.": "按与查询的相关分数给文档排序。",
    "Pseudo-log-likelihoods of texts under a T-TA model, in one pass each.": "用 T-TA 模型给文本打分（伪对数似然），每条"
    "一次前向。",
    "Titles or summaries of texts by a UniLM model.": "用 UniLM 模型写标题或摘要。",
    "Cut a model and its tokenizer to the tokens that are used.": "把模型和分词器裁到用得着的 token。",
    "Talk with a dialogue model; piped input is answered line by line.": "与对话模型聊天；从管道来的输入逐行回答。",
    "Colour the tokens that made a model say what it said (integrated gradients).": "给影响模型输出的 token 上色（积分梯度）。",
    "Try models in the browser: compare, search, chat, titles, spelling, scores, explain.": "在浏览器里试用模型：比较、检索、"
    "聊天、写标题、纠错、打分、解释。",
    "What differs between runs: recipe, data, versions and scores.": "比较几次训练的配方、数据、版本和分数。",
    "Open a saved model in every way it promises, without suzoo, and compare.": "在没有 suzoo 的进程里，用承诺的每种方式打开"
    "保存的模型并比较。",
    "Verify a saved model and upload it to the Hub; run again to resume.": "验证保存的模型并上传到 Hub；再次运行可以继续。",
    "An ONNX file of a saved encoder or cross-encoder.": "把保存的句向量模型或交叉编码器导出为 ONNX 文件。",
    "Small trained models, each by one command: suzoo zoo build NAME.": "训练好的小模型，每个一条命令：suzoo zoo build NAME。",
    "Write rows of an embedded, synthetic corpus to a file, to try things with.": "把内置的合成语料写入文件，供试用。",
    "Run a script of hub_scripts/: convert from bert4keras, write a Space.": "运行 hub_scripts/ 里的脚本：从 bert4keras 转换，生成 Space。",
    "Print a completion script: put `source <(suzoo completion bash)` into ~/.bashrc (zsh: ~/.zshrc).": "打印补全脚本："
    "把 `source <(suzoo completion bash)` 写进 ~/.bashrc（zsh：~/.zshrc）。",
    # what a command says when it is done
    "{} texts{}: {} dimensions, written to {}": "{0} 条文本{1}：{2} 维，已写入 {3}",
    "{} queries, {} documents, written to {}": "{0} 个查询，{1} 篇文档，已写入 {2}",
    "{} texts{}, {} tokens{}": "{0} 条文本{1}，{2} 个 token{3}",
    "{} texts, written to {}": "{0} 条文本，已写入 {1}",
    "written to {}": "已写入 {0}",
    ", {} of them cut to the model's length": "，其中 {0} 条按模型的长度截断",
    ", pseudo-perplexity {}": "，伪困惑度 {0}",
    "interrupted": "已中断",
    # chat
    "Say something; {}.": "说点什么吧；{0}。",
    "/reset forgets the conversation, /save FILE writes it, /load FILE continues one, "
    "/set top_p 0.9 changes the sampling (top_k, top_p, temperature), /quit ends": "/reset 忘掉对话，"
    "/save 文件 保存，/load 文件 继续，/set top_p 0.9 改变采样（top_k、top_p、temperature），/quit 结束",
    "saved {} turns to {}": "已把 {0} 轮对话保存到 {1}",
    "(stopped; this turn is forgotten)": "（已停止；这一轮不计入历史）",
    # models
    "there is no folder {} here, and {}: check the name, or the network": "这里没有文件夹 {0}，而且{1}：请检查名称或网络",
    "{} cannot be reached ({})": "连接不上 {0}（{1}）",
    "HF_HUB_OFFLINE keeps it from being asked of the Hub": "设置了 HF_HUB_OFFLINE，所以没有到 Hub 上找",
    "there is no folder {}": "没有文件夹 {0}",
    "cannot load {}: {}": "无法加载 {0}：{1}",
    "it is neither a folder nor a model of the Hub that this account may see": "它既不是文件夹，"
    "也不是这个账号能看到的 Hub 模型",
    "it has no usable tokenizer; save one into the folder": "它没有可用的分词器；请把分词器保存到这个文件夹",
    "it is a cross-encoder, which scores pairs: use `suzoo rerank`": "它是给文本对打分的交叉编码器：请用 `suzoo rerank`",
    "it is not a cross-encoder with one score, so it cannot rerank": "它不是只有一个分数的交叉编码器，不能重排",
    "it writes a target for a source and does not chat: use `suzoo summarize`": "它由原文写目标文本，不能聊天："
    "请用 `suzoo summarize`",
    "it is not a causal language model, so it cannot chat": "它不是因果语言模型，不能聊天",
    "the model needs Python code that it brings along: read it, and if you trust it give --trust-remote-code": "这个模型"
    "需要运行它自带的 Python 代码：请先阅读代码，信任它再加上 --trust-remote-code",
    "a weights file is damaged, or a pickle that would run code when it is opened: download it again, or ask its author "
    "for safetensors": "权重文件已损坏，或者是打开时会运行代码的 pickle：请重新下载，或向作者索取 safetensors",
    "a demo needs models: name the folders of some, or their names on the Hub": "演示需要模型：请给出一些模型文件夹，或它们在 Hub 上"
    "的名字",
    'the demo needs gradio: pip install "suzoo[demo]"': '演示需要 gradio：pip install "suzoo[demo]"',
    # files
    "give --query and --documents for one query, or --input with a jsonl file of many": "一个查询用 --query 和 --documents，"
    "许多查询用 --input 给出 jsonl 文件",
    "there is no file or folder {}{}": "没有文件或文件夹 {0}{1}",
    "{} is neither a file nor a folder: a pipe is read once, so write what comes out of it to a file": "{0} 既不是文件"
    "也不是文件夹：管道只能读一次，请先把它的输出写入文件",
    " (did you mean {}?)": "（是不是 {0}？）",
    "{}: No such file or directory": "{0}：没有这个文件或文件夹",
    "there is no folder {} to write {} to": "没有文件夹 {0}，无法写入 {1}",
    "no permission to write to {}": "没有权限写入 {0}",
    "{} exists; give --overwrite to replace it": "{0} 已存在；要替换它，请加上 --overwrite",
    "{} is not empty: add --resume to continue, --overwrite to start anew": "{0} 不是空的：继续训练请加 --resume，"
    "重新开始请加 --overwrite",
    "{}: the output's name must end in {}": "{0}：输出文件名必须以 {1} 结尾",
    "{} has no column {}; choose with --column: {}": "{0} 没有列 {1}；请用 --column 从中选择：{2}",
    "{} has no column for {}{}; it has {}: name one by --columns {}=<column> (by its number, from 0, if the file has no "
    "header)": "{0} 没有可作为 {1} 的列{2}；它有 {3}：请用 --columns {4}=<列名> 指明（没有表头的文件用从 0 起的列号）",
    "--column is for tables; a text file has one text per line": "--column 用于表格；文本文件每行一条文本",
    "{}: {} is empty": "{0}：{1} 是空的",
    # the Hub
    "{} does not verify: {}": "{0} 没有通过验证：{1}",
    "{} has no {}, so there is nothing to check; suzoo.hub.golden.write_golden makes it": "{0} 里没有 {1}，无从验证；"
    "它由 suzoo.hub.golden.write_golden 生成",
    "not logged in to the Hub: run `hf auth login`, or set HF_TOKEN": "还没有登录 Hub：请运行 `hf auth login`，"
    "或设置 HF_TOKEN",
    "no connection to {} ({}): check the network; pushing again resumes": "连接不上 {0}（{1}）：请检查网络；"
    "再次推送会接着上次继续",
    "We couldn't connect to {} to load the files, and couldn't find them in the cached files. Check your internet "
    "connection or see how to run the library in offline mode at {}.": "连接不上 {0}，缓存里也没有这些文件：请检查网络，或给出本机上的文件夹"
    "（离线使用的说明：{1}）",
    # argparse
    "the following arguments are required: {}": "缺少参数：{0}",
    "unrecognized arguments: {}": "不认识的参数：{0}",
    "argument {}: invalid choice: {} (choose from {})": "参数 {0}：没有选项 {1}（可选：{2}）",
    "argument {}: expected one argument": "参数 {0}：需要一个值",
    "argument {}: invalid {} value: {}": "参数 {0}：{2} 不是有效的值（应为 {1}）",
}


def is_chinese() -> bool:
    """As gettext decides it: by the first of these variables that is set. English where stderr has no Chinese."""
    chosen = (os.environ.get(name) for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"))
    if not next(filter(None, chosen), "").lower().startswith("zh"):
        return False
    try:
        "已".encode(getattr(sys.stderr, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def local(message: str) -> str:
    """The message in Chinese, if the locale is Chinese and `TABLE` has it; else as it is."""
    if not is_chinese():
        return message
    for pattern, chinese in _patterns():
        if found := pattern.fullmatch(message):
            return chinese.format(*map(local, found.groups()))
    return message


@functools.cache
def _patterns() -> list[tuple[re.Pattern, str]]:
    """Messages with the most words of their own first, since `{}` may stand for anything."""
    ordered = sorted(TABLE, key=lambda english: -len(english.replace("{}", "")))
    return [(_pattern(english), TABLE[english]) for english in ordered]


def _pattern(english: str) -> re.Pattern:
    """Of two values side by side the second is a remark in brackets, or nothing."""
    escaped = re.escape(english.replace("{}", "\0"))
    return re.compile(escaped.replace("\0\0", r"(.*?)((?: \(.*\))?)").replace("\0", "(.*?)"), re.DOTALL)
