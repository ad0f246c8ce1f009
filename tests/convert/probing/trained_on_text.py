"""Trains a small torch model on TEXT, so that its loss shows how it was made."""

from typing import Any

from tests.helpers import TEXT

CHARACTERS = sorted({*TEXT})
CONTEXT = 24


def trained_on_text(make: Any) -> Any:
    """The module that `make` returns, trained on one thread: matrices this small are slower on two."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = make()
    ids = torch.tensor([CHARACTERS.index(character) for character in TEXT])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        starts = torch.randint(0, len(ids) - CONTEXT, (16, 1))
        batch = ids[starts + torch.arange(CONTEXT + 1)]
        logits = model(batch[:, :-1]).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return model.eval()
