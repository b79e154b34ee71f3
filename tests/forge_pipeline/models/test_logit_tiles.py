"""Smaller tiles of logits on a CPU: the same losses and gradients, and TRL's own setting again afterwards."""

import pytest

from forge_pipeline.models.logit_tiles import logit_tiles_for, tile_tokens


@pytest.mark.parametrize(
    ("device", "usual", "tokens"), [("cpu", 4096, 256), ("cpu", 128, 128), ("cuda", 4096, 4096), ("mps", 4096, 4096)]
)
def test_only_a_cpu_takes_smaller_tiles(device, usual, tokens):
    assert tile_tokens(device, usual) == tokens


def test_the_setting_is_trls_own_again_afterwards_also_after_an_error():
    from trl.kernels import chunked_logprob

    usual = chunked_logprob.TOKEN_CHUNK_SIZE
    with pytest.raises(KeyError), logit_tiles_for("cpu"):
        assert usual > chunked_logprob.TOKEN_CHUNK_SIZE
        raise KeyError
    assert usual == chunked_logprob.TOKEN_CHUNK_SIZE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_are_the_same_and_gradients_to_the_last_digits_of_their_type(dtype):
    import torch
    from trl.kernels import ChunkedLogProbFunction

    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    hidden, weight = torch.randn(700, 32, dtype=kind), torch.randn(500, 32, dtype=kind)
    targets = torch.randint(0, 500, (700,))

    def run(device):
        leaf = hidden.clone().requires_grad_()
        with logit_tiles_for(device):
            losses = ChunkedLogProbFunction.apply(leaf, weight, None, targets, 1.0, 32768)[0]
            losses.sum().backward()
        return losses.detach(), leaf.grad

    (losses, gradients), (usual_losses, usual_gradients) = run("cpu"), run("cuda")
    torch.testing.assert_close(losses, usual_losses)
    torch.testing.assert_close(gradients, usual_gradients)
