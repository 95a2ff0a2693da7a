"""Tokenizers trained from a corpus, for models that start from scratch.

WordPiece is BERT's: `tokenizers` counts and merges, and the result is a stock `BertTokenizer`. Unigram is
sentencepiece's, written as a tokenizer.json so that loading it needs no sentencepiece. Both put [CLS] and [SEP] around
a text, return token types, load through `AutoTokenizer.from_pretrained`, and come out the same in every run.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from suzoo.data._errors import DataError

if TYPE_CHECKING:
    from tokenizers.processors import TemplateProcessing
    from transformers import BertTokenizer, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAIR_INPUTS = ("input_ids", "token_type_ids", "attention_mask")  # of a tokenizer that tells the texts of a pair apart


def train_wordpiece(
    texts: Iterable[str],
    *,
    vocab_size: int = 8000,
    lowercase: bool = True,
    min_frequency: int = 2,
    model_max_length: int = 512,
) -> BertTokenizer:
    """BERT's tokenizer with a vocabulary of the texts. Chinese characters stay single tokens.

    Args:
        texts: read twice, so they are held in memory.
        vocab_size: largest number of tokens, the 5 special ones included; a small corpus gives fewer. If it has more
            characters than that, the rarest become [UNK].
        lowercase: fold case and strip accents, as the uncased BERT does.
        min_frequency: merge two pieces only if they stand side by side this often.
        model_max_length: the length to which `truncation=True` cuts.

    Raises:
        DataError: no text, or a vocab_size that leaves no room beside the special tokens.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertTokenizer

    if vocab_size <= len(SPECIAL_TOKENS):
        raise DataError(f"vocab_size {vocab_size} leaves no room beside the {len(SPECIAL_TOKENS)} special tokens")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [tokenizer.normalizer.normalize_str(text) for text in texts]

    # The trainer walks through a hash map whose order changes from run to run: given in order and as "special", the
    # characters have fixed numbers, and with them all that follows. Characters too rare for a place are taken out.
    characters, inside = Counter(), set()
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
            characters.update(word)
            inside.update(word[1:])
    if not characters:
        raise DataError("there is no text to train a tokenizer from")
    alphabet, rare = [], {}
    for character in sorted(characters, key=lambda character: (-characters[character], character)):
        forms = [character, f"##{character}"] if character in inside else [character]
        if rare or len(SPECIAL_TOKENS) + len(alphabet) + len(forms) > vocab_size:
            rare[ord(character)] = " "
        else:
            alphabet += forms
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *alphabet],
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.translate(rare) for text in texts), trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=lowercase, model_max_length=model_max_length)


def train_unigram(
    texts: Iterable[str], *, vocab_size: int = 8000, lowercase: bool = False, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """A unigram language model over pieces (Kudo, 2018), trained by sentencepiece; pieces may span Chinese characters.

    Args:
        texts: at least a few hundred, or there is little to choose pieces from.
        vocab_size: largest number of tokens, the 5 special ones included; a small corpus gives fewer. If it has more
            different characters than half of that, the rarest 0.05 % of the text become [UNK].
        lowercase: fold case before everything else.
        model_max_length: the length to which `truncation=True` cuts.

    Raises:
        DataError: no text, or a vocab_size too small for the characters of the corpus.
    """
    return _tokenizer_of(_train_sentencepiece(texts, vocab_size=vocab_size, lowercase=lowercase), model_max_length)


def _train_sentencepiece(texts: Iterable[str], *, vocab_size: int, lowercase: bool) -> bytes:
    """The serialized sentencepiece model."""
    import sentencepiece

    # NUL is what sentencepiece ends a string with, and a line may be of any length
    lines = [text.replace("\0", "") for text in texts if text.strip()]
    if not lines:
        raise DataError("there is no text to train a tokenizer from")
    model = io.BytesIO()
    pad, unk, *control = SPECIAL_TOKENS
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            # a small alphabet is taken whole; of a large one the rarest characters would fill the vocabulary
            character_coverage=1.0 if len(set().union(*lines)) <= vocab_size // 2 else 0.9995,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            max_sentence_length=max(4192, *(len(line.encode()) + 1 for line in lines)),
            pad_id=0,
            pad_piece=pad,
            unk_id=1,
            unk_piece=unk,
            bos_id=-1,
            eos_id=-1,
            control_symbols=control,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"sentencepiece cannot train {vocab_size} pieces on {len(lines)} texts: {error}") from error
    return model.getvalue()


def _tokenizer_of(model: bytes, model_max_length: int) -> PreTrainedTokenizerFast:
    """The same tokenizer as a sentencepiece model, without sentencepiece."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # ty: ignore[missing-attribute]  (made at run time)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    pad, unk, cls, sep, mask = SPECIAL_TOKENS
    tokenizer.post_processor = pair_layout(*((token, SPECIAL_TOKENS.index(token)) for token in (cls, sep)))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        model_max_length=model_max_length,
        model_input_names=list(PAIR_INPUTS),
    )


def pair_layout(cls: tuple[str, int], sep: tuple[str, int]) -> TemplateProcessing:
    """BERT's: `[CLS] A [SEP] B [SEP]` with token types 0 and 1, from the tokens and their ids."""
    from tokenizers.processors import TemplateProcessing

    single = f"{cls[0]} $A {sep[0]}"
    return TemplateProcessing(single=single, pair=f"{single} $B:1 {sep[0]}:1", special_tokens=[cls, sep])
