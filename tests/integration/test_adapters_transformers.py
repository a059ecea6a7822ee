"""The bottleneck tuner with tools of transformers and torch: Trainer, other heads, native adapters, compile."""

from pathlib import Path

import peft
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from pipeline.adapters import BottleneckConfig
from tests.tiny import CONFIGS, TOKENS, model_of

PAGE = Path(__file__).resolve().parents[2] / "docs/adapters.md"
IDS = torch.arange(3, 15)[None]
PLACES = {"up_proj": "before", "down_proj": "after", "q_proj": "parallel"}


def make_config(**changes):
    settings = {"placement": PLACES, "bottleneck_size": 4, "scaling": "learned", "task_type": "CAUSAL_LM"}
    return BottleneckConfig(**{**settings, **changes})


def make_model(**changes):
    torch.manual_seed(0)
    return peft.get_peft_model(model_of("llama"), make_config(**changes)).eval()


def logits(model, ids=IDS, **options):
    with torch.no_grad():
        return model(input_ids=ids, **options).logits


def test_the_trainer_trains_an_adapter_and_resumes_from_a_checkpoint(tmp_path):
    def trainer(steps):
        arguments = TrainingArguments(
            str(tmp_path), max_steps=steps, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
        )
        return Trainer(make_model(), arguments, train_dataset=[{"input_ids": IDS[0], "labels": IDS[0]}] * 4)

    uninterrupted = trainer(3)
    uninterrupted.train()
    assert "adapter_model.safetensors" in {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    resumed = trainer(3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(logits(resumed.model.eval()), logits(uninterrupted.model.eval()))


def test_a_classifier_trains_its_head_beside_the_adapter(tmp_path):
    def classifier():
        torch.manual_seed(0)
        config = AutoConfig.for_model("llama", vocab_size=64, **TOKENS, **CONFIGS["llama"])
        return AutoModelForSequenceClassification.from_config(config).eval()

    model = peft.get_peft_model(classifier(), make_config(task_type="SEQ_CLS"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("score" in name for name in trained)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * parameter.requires_grad)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(classifier(), tmp_path)
    assert torch.equal(logits(loaded.eval()), logits(model.eval()))


def test_an_encoder_decoder_can_have_an_adapter():
    config = T5Config(
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        vocab_size=64,
        decoder_start_token_id=0,
    )
    placement = {"wi": "before", "o": "after"}
    model = peft.get_peft_model(
        T5ForConditionalGeneration(config), make_config(task_type="SEQ_2_SEQ_LM", placement=placement)
    )
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.generate(input_ids=IDS, num_beams=2, max_new_tokens=4).shape[0] == 1


def test_transformers_adds_and_loads_an_adapter_without_a_peft_model(tmp_path):
    model = model_of("llama")
    model.add_adapter(make_config())
    adapted_logits = logits(model)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = model_of("llama")
    loaded.load_adapter(str(tmp_path))
    assert torch.equal(logits(loaded), adapted_logits)
    loaded.disable_adapters()
    assert torch.equal(logits(loaded), logits(model_of("llama")))


def test_a_compiled_model_gives_the_same_logits_and_gradients():
    """All placements compile without a graph break. Not with inductor, which needs a compiler and half a minute."""
    model = make_model()
    model(input_ids=IDS, labels=IDS).loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    compiled = torch.compile(model.get_base_model(), backend="aot_eager", fullgraph=True)
    assert (logits(compiled) - logits(model)).abs().max() < 1e-5
    compiled(input_ids=IDS, labels=IDS).loss.backward()
    for name, p in model.named_parameters():
        assert name not in expected or torch.allclose(p.grad, expected[name], atol=1e-5), name


def test_a_compiled_model_generates_and_mixes_adapters():
    model = make_model()
    model.add_adapter("second", make_config())
    names = ["second", "default"]
    tokens = model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False)
    uncached = model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(tokens, uncached)
    mixed = logits(model, IDS.repeat(2, 1), adapter_names=names)
    compiled = torch.compile(model, backend="eager")
    assert (logits(compiled, IDS.repeat(2, 1), adapter_names=names) - mixed).abs().max() < 1e-5
    base = model.get_base_model()
    base.forward = torch.compile(base.forward, backend="eager")
    assert torch.equal(model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False), tokens)


def test_the_example_of_the_documentation_runs():
    example = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    names = {"base": model_of("llama")}
    exec(example, names)
    assert names["model"].get_nb_trainable_parameters()[0] == 2 * 3 * 64 * (32 + 32)
