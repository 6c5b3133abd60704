"""The callback in transformers' own Trainer, and transformers' networks in and out of files."""

from __future__ import annotations

import pytest
import torch

import deepcompress as dc
from deepcompress.errors import DeepCompressError

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from deepcompress.integrations.transformers import CompressCallback  # noqa: E402

RECIPE = dc.Recipe(prune=0.6, bits=4, iterations=2, epochs=3, finetune_epochs=1)
WORDS, LENGTH = 50, 8


def config():
    return transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
    )


def rows(n=64):
    """Sentences that repeat their first word."""
    words = torch.randint(0, WORDS, (n, 1), generator=torch.Generator().manual_seed(0)).expand(n, LENGTH)
    return [{"input_ids": row.clone(), "labels": row.clone()} for row in words]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(config())


def trainer_of(model, folder, callback, eval_dataset=None, **settings):
    settings = {"max_steps": 16, "save_strategy": "no", **settings}
    arguments = transformers.TrainingArguments(
        str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        learning_rate=1e-2,
        logging_strategy="no",
        **settings,
    )
    return transformers.Trainer(model, arguments, train_dataset=rows(), eval_dataset=eval_dataset, callbacks=[callback])


def check(callback, model, path, recipe=RECIPE):
    stored = dc.load_state_dict(path)
    assert list(stored) == list(model.state_dict())
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    assert callback.compressor.sparsity == pytest.approx(recipe.prune, abs=1e-3)
    assert all(len(w[w != 0].unique()) <= 2**recipe.bits for w in stored.values() if w.ndim > 1)
    assert callback.result.file_bytes == path.stat().st_size


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_steps": -1, "num_train_epochs": 3, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0, "bf16": True},
    ],
    ids=["steps", "accumulated"],
)
def test_a_network_is_compressed_while_it_trains(model, tmp_path, settings):
    path = tmp_path / "m.dc"
    callback = CompressCallback(path, RECIPE)
    trainer_of(model, tmp_path, callback, **settings).train()
    check(callback, model, path)
    again = dc.load(path, into=transformers.AutoModelForMaskedLM.from_config(config()))
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    batch, bare = torch.stack([row["input_ids"] for row in rows(4)]), type(model)
    assert torch.equal(again.eval()(batch).logits, bare.forward(model.eval(), batch).logits)


@pytest.mark.parametrize("stop", [8, 14], ids=["while pruning", "while tuning"])
def test_a_run_goes_on_from_its_checkpoint(model, tmp_path, stop):
    first = CompressCallback(tmp_path / "first.dc", RECIPE)
    trainer_of(model, tmp_path, first, save_strategy="steps", save_steps=stop).train()
    folder = tmp_path / f"checkpoint-{stop}"
    saved = transformers.AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    again = CompressCallback(tmp_path / "m.dc", RECIPE)
    model = transformers.BertForMaskedLM(config())
    trainer_of(model, tmp_path, again).train(resume_from_checkpoint=str(folder))
    check(again, model, tmp_path / "m.dc")
    for name in again.compressor.weights:
        now, then = model.state_dict()[name], saved[name]
        assert not now[then == 0].any()
        if stop == 14:
            assert all(len(now[then == value].unique()) == 1 for value in then.unique())


def test_the_best_checkpoint_is_not_the_compressed_network(model, tmp_path):
    callback = CompressCallback(tmp_path / "m.dc", RECIPE)
    settings = {"load_best_model_at_end": True, "save_strategy": "steps", "eval_strategy": "steps"}
    trainer = trainer_of(model, tmp_path, callback, eval_dataset=rows(), **settings)
    with pytest.raises(DeepCompressError, match="load_best_model_at_end puts back"):
        trainer.train()


def test_a_body_that_is_frozen(model, tmp_path):
    model.bert.requires_grad_(False)
    callback = CompressCallback(tmp_path / "m.dc", RECIPE)
    trainer_of(model, tmp_path, callback).train()
    check(callback, model, tmp_path / "m.dc")


def test_a_submodule(model, tmp_path):
    callback = CompressCallback(tmp_path / "m.dc", RECIPE, submodule="bert.encoder")
    trainer_of(model, tmp_path, callback, max_steps=4).train()
    check(callback, model.bert.encoder, tmp_path / "m.dc")


def test_an_encoder_without_its_head(model, tmp_path):
    dc.compress(model, None, None, dc.Recipe(prune=0.5, bits=4, retrain=False), tmp_path / "m.dc")
    encoder = dc.load(tmp_path / "m.dc", into=transformers.AutoModelForMaskedLM.from_config(config())).bert
    assert int((encoder.embeddings.word_embeddings.weight == 0).sum()) > 0
