"""From keras-nlp's tokenizers and presets to ours, and the proof between them."""

import keras_hub
import pytest
from sentencepiece import SentencePieceTrainer

from tests.text.texts import CORPUS
from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.data.token_counts import open_tokenizer
from tfpipe.text.golden import AWKWARD_TEXTS, golden_ids
from tfpipe.text.keras_side import (
    keras_ids,
    keras_layer,
    prove,
    save_proved,
    tokenizer_from_keras,
    tokenizer_from_preset,
)
from tfpipe.text.tokenizer import load_tokenizer
from tfpipe.text.unicode_probe import probe_unicode
from tfpipe.text.word_pieces import SPECIAL_TOKENS, WordPieceOptions, WordPieceTokenizer

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def bert(word_pieces):
    return keras_hub.models.BertTokenizer(vocabulary=list(word_pieces.vocabulary), lowercase=True)


@pytest.fixture(scope="module")
def xlm_roberta(tmp_path_factory):
    path = tmp_path_factory.mktemp("xlm") / "model"
    # As fairseq trains them: the unknown piece is 0, the start and the end follow, none for padding.
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(path),
        vocab_size=260,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
    )
    return keras_hub.models.XLMRobertaTokenizer(proto=path.with_suffix(".model").read_bytes())


def test_a_bert_tokenizer_is_taken_over(bert):
    tokenizer = tokenizer_from_keras(bert)

    assert tokenizer.kind == "wordpiece"
    assert tokenizer.vocabulary_size == bert.vocabulary_size()
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id) == (
        bert.start_token_id,
        bert.end_token_id,
        bert.pad_token_id,
    )


def test_an_albert_tokenizer_is_taken_over(sentence_pieces):
    albert = keras_hub.models.AlbertTokenizer(proto=sentence_pieces.proto)

    tokenizer = tokenizer_from_keras(albert)

    assert tokenizer.kind == "sentencepiece"
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id) == (
        albert.start_token_id,
        albert.end_token_id,
        albert.pad_token_id,
    )


def test_an_xlm_roberta_tokenizer_is_taken_over_with_its_own_ids(xlm_roberta, tmp_path):
    tokenizer = tokenizer_from_keras(xlm_roberta)
    save_proved(tokenizer, tmp_path)

    assert golden_ids(load_tokenizer(tmp_path), CORPUS) == [xlm_roberta(text) for text in CORPUS]
    assert tokenizer.vocabulary_size == xlm_roberta.vocabulary_size()
    assert (tokenizer.start_id, tokenizer.pad_id, tokenizer.end_id, tokenizer.unknown_id) == (0, 1, 2, 3)


def test_a_roberta_tokenizer_is_taken_over(byte_pairs):
    roberta = keras_hub.models.RobertaTokenizer(vocabulary=byte_pairs.vocabulary, merges=list(byte_pairs.merges))

    tokenizer = tokenizer_from_keras(roberta)

    assert golden_ids(tokenizer, AWKWARD_TEXTS) == golden_ids(byte_pairs, AWKWARD_TEXTS)
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id) == (
        roberta.start_token_id,
        roberta.end_token_id,
        roberta.pad_token_id,
    )


def test_a_preset_folder_is_taken_over(bert, word_pieces, tmp_path):
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=word_pieces.vocabulary_size, num_layers=1, num_heads=1, hidden_dim=2, intermediate_dim=2
    )
    backbone.save_to_preset(str(tmp_path))
    bert.save_to_preset(str(tmp_path))

    tokenizer = tokenizer_from_preset(str(tmp_path))

    assert golden_ids(tokenizer, CORPUS) == golden_ids(word_pieces, CORPUS)
    # What `validate` counts tokens with.
    assert golden_ids(open_tokenizer(str(tmp_path)), CORPUS) == golden_ids(word_pieces, CORPUS)


def test_a_preset_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"preset '.+': expected a folder or name that keras-nlp can load"):
        tokenizer_from_preset(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 16}, "expected sequence_length=None, for rows are packed later, received 16"),
        ({"special_tokens_in_strings": True}, "expected special_tokens_in_strings=False, received True"),
    ],
)
def test_settings_without_counterpart_are_refused(word_pieces, options, message):
    layer = keras_hub.models.BertTokenizer(vocabulary=list(word_pieces.vocabulary), **options)

    with pytest.raises(ConfigError, match=message):
        tokenizer_from_keras(layer)


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(ConfigError, match="expected a keras-nlp tokenizer, received ByteTokenizer"):
        tokenizer_from_keras(keras_hub.tokenizers.ByteTokenizer())


def test_ids_that_differ_are_found(word_pieces):
    cased = WordPieceTokenizer(word_pieces.vocabulary, WordPieceOptions(), SPECIAL_TOKENS, probe_unicode())

    with pytest.raises(
        ConversionError, match=r"for 'The fox' expected the Keras layer's ids \[.+\], received \[.+\] in"
    ):
        prove(cased, ["the fox", "The fox"], reference=keras_ids(word_pieces, ["the fox", "The fox"]))


def test_more_texts_than_a_batch_keep_their_order(word_pieces):
    texts = [f"the {number} fox" for number in range(600)]

    assert keras_ids(word_pieces, texts) == golden_ids(word_pieces, texts)


def test_byte_pairs_have_no_layer_and_one_tokenizer(byte_pairs):
    assert keras_ids(byte_pairs, CORPUS) == golden_ids(byte_pairs, CORPUS)
    with pytest.raises(
        ConfigError, match="expected wordpiece or sentencepiece, which have a Keras layer, received bpe"
    ):
        keras_layer(byte_pairs)


def test_special_tokens_in_a_text_mean_nothing(word_pieces):
    ids = word_pieces.encode("[CLS] [SEP] [PAD] [MASK]").ids

    assert not {word_pieces.start_id, word_pieces.end_id, word_pieces.pad_id, 4} & set(ids)
