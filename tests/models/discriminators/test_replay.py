import torch

from advgrpo.models.discriminators.replay import ReplayPool


def batch(start: int, count: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    ids = torch.arange(start, start + count)
    return {"tokens": ids.float()[:, None, None].expand(-1, 2, 3)}, ids


def test_the_pool_keeps_the_newest_images() -> None:
    pool = ReplayPool(5)
    for start in (0, 3, 6):
        pool.add(*batch(start, 3))
    assert pool.prompt_ids.tolist() == [4, 5, 6, 7, 8]
    assert pool.features["tokens"][:, 0, 0].tolist() == [4, 5, 6, 7, 8]


def test_a_pool_without_room_stays_empty() -> None:
    pool = ReplayPool(0)
    pool.add(*batch(0, 3))
    assert len(pool) == 0


def test_a_pool_resumes_from_its_saved_state() -> None:
    pool, other = ReplayPool(4), ReplayPool(4)
    pool.add(*batch(0, 3))
    other.load_state(pool.state())
    for one in (pool, other):
        one.add(*batch(3, 3))
    assert torch.equal(pool.prompt_ids, other.prompt_ids)
    assert torch.equal(pool.features["tokens"], other.features["tokens"])
