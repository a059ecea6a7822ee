"""State dicts of sharded and prepared models with bottleneck adapters, on the CPU (gloo)."""

import peft
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pipeline.adapters import BottleneckConfig
from tests.tiny import model_of

IDS = torch.arange(3, 15)[None]


def make_model():
    placement = {"up_proj": "before", "down_proj": "after", "q_proj": "parallel"}
    config = BottleneckConfig(
        placement=placement, bottleneck_size=4, scaling="learned", task_type="CAUSAL_LM"
    )
    return peft.get_peft_model(model_of("llama"), config)


def train_step(model, backward=torch.Tensor.backward, prepare=lambda *objects: objects):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model, optimizer = prepare(model, optimizer)
    backward(model(input_ids=IDS, labels=IDS).loss)
    optimizer.step()
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def train_sharded(rank, folder):
    """Train and save in one of two processes; the first writes the adapter and its logits."""
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    model = make_model()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train_step(model)
    after = logits(model)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if rank == 0:
        model.save_pretrained(f"{folder}/adapter", state_dict=state)
        torch.save(after, f"{folder}/logits.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.exhaustive
def test_a_model_sharded_by_fsdp_over_two_processes_trains_and_saves_its_adapter(tmp_path):
    torch.multiprocessing.spawn(train_sharded, args=(str(tmp_path),), nprocs=2)
    loaded = peft.PeftModel.from_pretrained(model_of("llama"), tmp_path / "adapter")
    assert (logits(loaded) - torch.load(tmp_path / "logits.pt")).abs().max() < 1e-6
    torch.manual_seed(0)
    unsharded = make_model()
    assert not torch.equal(logits(unsharded), logits(loaded))
    # a single process trains the same
    assert (logits(train_step(unsharded)) - logits(loaded)).abs().max() < 1e-5


def test_a_model_prepared_by_accelerate_trains_and_saves_its_adapter(tmp_path):
    accelerator = Accelerator(cpu=True)
    try:
        model = train_step(make_model(), accelerator.backward, accelerator.prepare)
        accelerator.unwrap_model(model).save_pretrained(
            tmp_path, state_dict=accelerator.get_state_dict(model), save_function=accelerator.save
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    loaded = peft.PeftModel.from_pretrained(model_of("llama"), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
