"""A hostile pickle is recognised without executing it, or allocating what it asks for."""

import collections
import io
import itertools
import os
import pickle
import tracemalloc

import pytest

from convert.files.ledger import MAX_EQUAL, MAX_HASHED, Ledger


class Command:
    """Runs a shell command when it is unpickled by a reader that obeys."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_followed_and_not_obeyed(tmp_path, protocol):
    content = pickle.dumps({"first": Command(tmp_path / "obeyed"), "then": io.StringIO}, protocol)
    ledger = Ledger(io.BytesIO(content)).follow(1)
    assert (ledger.broken, ledger.foreign) == (
        "",
        ["_io.StringIO", f"{os.system.__module__}.system"],
    )
    assert not (tmp_path / "obeyed").exists()
    pickle.loads(content)  # so it does harm to whoever obeys, and the line above could fail
    assert (tmp_path / "obeyed").exists()


class Storing(pickle.Pickler):
    def persistent_id(self, item):
        return item if isinstance(item, tuple) and item[0] == "storage" else None


def test_claims_are_the_sizes_of_storages():
    stream = io.BytesIO()
    # As torch writes them: kind, class, key, device, number of elements. A pickled name stands in for a torch class.
    Storing(stream, 2).dump(
        [("storage", io.StringIO, "0", "cpu", 10), ("storage", io.BytesIO, "1", "cpu", 3)]
    )
    content = (
        stream.getvalue()
        .replace(b"_io\nStringIO\n", b"torch\nHalfStorage\n")
        .replace(b"_io\nBytesIO\n", b"torch\nDoubleStorage\n")
    )
    ledger = Ledger(io.BytesIO(content)).follow(1)
    assert (ledger.broken, ledger.claims, ledger.foreign) == ("", {"0": 20, "1": 24}, [])


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo index for which the unpickler in C would allocate 32 GB
        b"\x80\x05\x96"
        + (2**28).to_bytes(8, "little")
        + b".",  # 256 MB of zeros, to be overwritten by what follows
        b"\x80\x02\x8a\x04",
        b"\x80\x02cos\nsystem\n",
        b"\x80\x02\x82\x01.",  # an extension code, to be looked up in the running process
        b"",
    ],
)
def test_a_malformed_pickle_costs_nothing(content):
    tracemalloc.start()
    ledger = Ledger(io.BytesIO(content)).follow(1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert ledger.broken or content.startswith(b"\x80\x02N")


def test_tuples_that_contain_each_other_are_not_hashed():
    """Forty pairs of the pair before: as a key, the last would be a million millions of elements."""
    pairs = b")" + 40 * (pickle.DUP + pickle.TUPLE2)
    ledger = Ledger(io.BytesIO(b"\x80\x02}" + pairs + b"K\x01s.")).follow(1)
    assert "tuples within tuples" in ledger.broken


def test_large_tuples_of_plain_values_are_followed():
    content = pickle.dumps({(i, str(i)): (tuple(range(i)), (i,) * 3) for i in range(300)}, 2)
    assert Ledger(io.BytesIO(content)).follow(1).broken == ""


# -1 and -2 have the same hash, and so have all tuples of them.
ALIKE = list(itertools.islice(itertools.product((-1, -2), repeat=8), MAX_EQUAL + 1))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "value",
    [
        dict.fromkeys(ALIKE),
        {2**61 - 1 + i * (2**61 - 1) for i in range(MAX_EQUAL + 1)},
        frozenset(ALIKE),
        collections.Counter(ALIKE),
        collections.OrderedDict.fromkeys(ALIKE),
    ],
)
def test_many_keys_of_one_hash_are_refused(value, protocol):
    """To put n of them into a dict takes n * n / 2 comparisons."""
    assert (
        "keys of the same hash"
        in Ledger(io.BytesIO(pickle.dumps(value, protocol))).follow(1).broken
    )
    fewer = list(value)[:MAX_EQUAL]
    for one in (dict.fromkeys(fewer), set(fewer), [dict.fromkeys(fewer)] * 2, fewer * 2):
        assert Ledger(io.BytesIO(pickle.dumps(one, protocol))).follow(1).broken == ""


def test_ordered_pairs_and_places_in_the_memo_are_keys_too():
    pairs = b"ccollections\nOrderedDict\n" + pickle.dumps([[key, 0] for key in ALIKE], 2)[2:-1]
    ledger = Ledger(io.BytesIO(b"\x80\x02" + pairs + pickle.TUPLE1 + pickle.REDUCE + b"."))
    assert "keys of the same hash" in ledger.follow(1).broken
    memo = b"".join(b"Np%d\n" % (i * (2**61 - 1)) for i in range(MAX_EQUAL + 1))
    assert "keys of the same hash" in Ledger(io.BytesIO(memo + b".")).follow(1).broken


def test_a_large_key_is_not_hashed_again_and_again():
    key = tuple(range(MAX_HASHED // 100))
    content = pickle.dumps([key, *({key: 0} for _ in range(101))], 2)
    assert f"keys of over {MAX_HASHED} elements" in Ledger(io.BytesIO(content)).follow(1).broken
    content = pickle.dumps([key, *({key: 0} for _ in range(10))], 2)
    assert Ledger(io.BytesIO(content)).follow(1).broken == ""
