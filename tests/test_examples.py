from __future__ import annotations

import random
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from landscape.examples import Examples
from landscape.structures import count_examples, map_tensors, tensors_of
from tests.problems import seeded, vectors

X, Y = vectors(23)
CPU = torch.device("cpu")


class Plain(Dataset):
    """A dataset that is no TensorDataset."""

    def __init__(self, inputs=X, targets=Y):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], self.targets[index]


class Augmenting(Plain):
    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs + torch.randn(inputs.shape), target


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Batches:
    """A re-iterable of batches, as a hand-written loader is."""

    def __iter__(self):
        yield from zip(X.split(5), Y.split(5), strict=True)


def pairs(examples: Examples):
    (batch,) = [batch for batch, _ in examples.batches(len(examples))]
    return batch


FORMS = {
    "tuple": lambda: (X, Y),
    "numpy": lambda: (X.numpy(), Y.numpy()),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": Plain,
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=5),
    "loader of a Dataset": lambda: DataLoader(Plain(), batch_size=5),
    "shuffled": lambda: DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True),
    "shuffled Dataset": lambda: DataLoader(Plain(), batch_size=5, shuffle=True),
    "own generator": lambda: DataLoader(Plain(), batch_size=5, shuffle=True, generator=seeded(0)),
    "drop_last": lambda: DataLoader(Plain(), batch_size=5, shuffle=True, drop_last=True),
    "SubsetRandomSampler": lambda: DataLoader(Plain(), batch_size=5, sampler=SubsetRandomSampler(range(23))),
    "sequential batch_sampler": lambda: DataLoader(Plain(), batch_sampler=BatchSampler(range(23), 4, False)),
    "unbatched loader": lambda: DataLoader(list(zip(X.split(4), Y.split(4), strict=True)), batch_size=None),
    "IterableDataset": Stream,
    "loader of an IterableDataset": lambda: DataLoader(Stream(), batch_size=5),
    "batches": Batches,
    "large batches": lambda: DataLoader(Plain(), batch_size=500, shuffle=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_examples_in_the_order_of_the_dataset(form):
    inputs, targets = pairs(Examples.of(FORMS[form]()))
    assert torch.equal(inputs, X)
    assert torch.equal(targets, Y)


@pytest.mark.parametrize("form", FORMS)
def test_reading_leaves_every_random_generator_as_it_was(form):
    data = FORMS[form]()
    own = getattr(data, "generator", None)
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), own and own.get_state())
    Examples.of(data)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert own is None or torch.equal(own.get_state(), states[3])


def test_a_loader_that_has_to_be_read_gets_its_generator_back():
    generator = seeded(3)
    before = generator.get_state()
    Examples.of(DataLoader(Stream(), batch_size=5, generator=generator))
    assert torch.equal(generator.get_state(), before)


def test_a_subset_sampler_chooses_its_examples():
    inputs, _ = pairs(Examples.of(DataLoader(Plain(), batch_size=2, sampler=SubsetRandomSampler([7, 2, 11]))))
    assert torch.equal(inputs, X[[2, 7, 11]])
    inputs, _ = pairs(Examples.of(DataLoader(TensorDataset(X, Y), batch_size=2, sampler=range(4))))
    assert torch.equal(inputs, X[:4])


class EveryOther(RandomSampler):
    def __iter__(self):
        return iter(range(0, len(self.data_source), 2))


def test_a_sampler_of_a_users_own_is_obeyed():
    dataset = TensorDataset(X, Y)
    inputs, _ = pairs(Examples.of(DataLoader(dataset, batch_size=4, sampler=EveryOther(dataset))))
    assert torch.equal(inputs, X[::2])


class Scaled(TensorDataset):
    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return 2 * inputs, target


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: DataLoader(data, batch_size=4, shuffle=True)])
def test_the_transform_of_a_tensor_dataset_subclass_is_applied(wrap):
    inputs, _ = pairs(Examples.of(wrap(Scaled(X, Y))))
    assert torch.equal(inputs, 2 * X)


def test_a_custom_collate_function_is_used():
    def collate(items):
        return torch.stack([x for x, _ in items]) + 1, torch.stack([y for _, y in items])

    inputs, _ = pairs(Examples.of(DataLoader(TensorDataset(X, Y), batch_size=4, collate_fn=collate)))
    assert torch.equal(inputs, X + 1)


def test_examples_can_be_cut_at_will_and_nothing_is_lost():
    examples = Examples.of((X, Y))
    for size in (1, 2, 5, 23, 100):
        cut = list(examples.batches(size))
        assert [number for _, number in cut] == [len(batch[1]) for batch, _ in cut]
        assert torch.equal(torch.cat([batch[0] for batch, _ in cut]), X)
    assert [number for _, number in examples.batches(5)] == [5, 5, 5, 5, 3]


def test_a_single_example_at_the_end_goes_with_the_batch_before():
    examples = Examples.of((X, Y))
    assert [number for _, number in examples.batches(11)] == [11, 12]
    assert [number for _, number in examples.batches(1)] == [1] * 23
    assert [number for _, number in Examples.of((X[:1], Y[:1])).batches(4)] == [1]


def ragged(items):
    return [x for x, _ in items], torch.tensor([y for _, y in items])


class Sequences(Dataset):
    """Five sequences of lengths 1 to 5, which no tensor holds together."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((index + 1, 2), float(index)), index


def test_ragged_batches_are_kept_with_the_number_of_their_examples():
    examples = Examples.of(DataLoader(Sequences(), batch_size=2, collate_fn=ragged))
    assert not examples.divisible
    assert len(examples) == 5
    assert [number for _, number in examples.batches(100)] == [2, 2, 1]


def test_batches_of_other_widths_are_kept():
    def padded(items):
        return pad_sequence([x for x, _ in items], batch_first=True), torch.tensor([y for _, y in items])

    examples = Examples.of(DataLoader(Sequences(), batch_size=2, collate_fn=padded))
    assert not examples.divisible
    assert [number for _, number in examples.batches(100)] == [2, 2, 1]


class Nodes:
    """A graph-like object that holds its tensors out of sight."""

    def __init__(self, items):
        self.values = torch.stack([x for x, _ in items])


def test_objects_without_tensors_count_what_the_loader_put_into_them():
    examples = Examples.of(DataLoader(Plain(), batch_size=5, collate_fn=Nodes))
    assert len(examples) == 23
    assert not examples.divisible


def test_a_batch_whose_tensors_have_another_first_axis_is_kept():
    def with_channel_first(items):
        return torch.stack([x for x, _ in items], dim=1), torch.stack([y for _, y in items])[None]

    examples = Examples.of(DataLoader(Plain(), batch_size=5, collate_fn=with_channel_first))
    assert not examples.divisible
    assert len(examples) == 23


def test_dict_batches_are_joined_and_cut():
    class Dicts(Plain):
        def __getitem__(self, index):
            return {"inputs": X[index], "mask": X[index] > 0, "label": Y[index]}

    examples = Examples.of(DataLoader(Dicts(), batch_size=5, shuffle=True))
    assert examples.divisible
    (first, number), *_ = examples.batches(7)
    assert number == 7
    assert torch.equal(first["inputs"], X[:7])
    assert torch.equal(first["mask"], X[:7] > 0)


def test_take_is_a_fixed_subset_in_order():
    examples = Examples.of((X, Y))
    subset, again, other = examples.take(9), examples.take(9), examples.take(9, seed=1)
    assert (len(subset), subset.digest()) == (9, again.digest())
    assert subset.digest() != other.digest()
    places = [int((row == X).all(dim=1).nonzero()) for row in pairs(subset)[0]]
    assert places == sorted(set(places))


def test_to_converts_floating_point_tensors_alone():
    inputs, targets = pairs(Examples.of((X, Y)).to(CPU, torch.float64))
    assert (inputs.dtype, targets.dtype) == (torch.float64, torch.int64)


def test_the_digest_knows_every_bit():
    digest = Examples.of((X, Y)).digest()
    changed = X.clone()
    changed[3, 2] = torch.nextafter(changed[3, 2], torch.tensor(9.0))
    assert digest == Examples.of(DataLoader(Plain(), batch_size=4, shuffle=True)).digest()
    assert digest != Examples.of((changed, Y)).digest()
    assert digest != Examples.of((X.double(), Y)).digest()
    assert digest != Examples.of((X[:, :, None], Y)).digest()


def test_examples_pass_through():
    examples = Examples.of((X, Y))
    assert Examples.of(examples) is examples


@pytest.mark.parametrize("batch_size", [4, 256, 300])  # 300 is more than are read twice
def test_augmentation_is_refused(batch_size):
    data = Augmenting(torch.zeros(400, 2), torch.zeros(400))
    with pytest.raises(ValueError, match="other values when an example is read a second time"):
        Examples.of(DataLoader(data, batch_size=batch_size))


class Random(Sampler):
    def __iter__(self):
        return iter(torch.randperm(23).tolist())

    def __len__(self):
        return 23


def short(dataset):
    return RandomSampler(dataset, num_samples=5)


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(Plain(), batch_size=5, sampler=WeightedRandomSampler(torch.ones(23), 23)),
        DataLoader(Plain(), batch_size=5, sampler=RandomSampler(range(23), replacement=True)),
        DataLoader(Plain(), batch_size=5, sampler=short(Plain())),
        DataLoader(Plain(), batch_size=5, sampler=Random()),
        DataLoader(Plain(), batch_sampler=BatchSampler(Random(), 5, False)),
        (batch for batch in Batches()),
    ],
    ids=["weighted", "replacement", "some of them", "own sampler", "batch_sampler", "used up"],
)
def test_random_samples_are_refused(data):
    with pytest.raises(ValueError, match="other examples, or another order, when it is read a second time"):
        Examples.of(data)


@pytest.mark.parametrize(
    "data",
    [
        (torch.zeros(0, 3), torch.zeros(0)),
        TensorDataset(torch.zeros(0, 3), torch.zeros(0)),
        DataLoader(TensorDataset(torch.zeros(0, 3), torch.zeros(0))),
        DataLoader(Plain(X[:0], Y[:0])),
        iter(()),
    ],
    ids=["tuple", "dataset", "tensor loader", "loader", "iterable"],
)
def test_no_examples_are_refused(data):
    with pytest.raises(ValueError, match="the data has no examples"):
        Examples.of(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_found(value):
    bad = X.clone()
    bad[4, 1] = value
    with pytest.raises(ValueError, match=rf"inputs\[4, 1\] is {value}"):
        Examples.of((bad, Y))
    targets = torch.zeros(23)
    targets[2] = value
    with pytest.raises(ValueError, match=rf"targets\[2\] is {value}"):
        Examples.of((X, targets))
    with pytest.raises(ValueError, match=r"batch 1, inputs\[0\]"):
        Examples([(torch.zeros(1), Y[:1]), (torch.full((2,), value), Y[:2])], counts=[1, 3])
    with pytest.raises(ValueError, match=r"tensor 2\[0\]"):
        Examples([(X, Y, torch.full((23,), value))])


def test_a_number_too_large_for_the_type_is_found():
    examples = Examples.of((X.double() * 1e300, Y))
    with pytest.raises(ValueError, match="not finite"):
        examples.to(CPU, torch.float32)


def test_what_is_no_data_is_refused():
    for data in (3, None, [(X[0], Y[0])], [X, Y], {"x": X}, "mnist", X, X.numpy()):
        with pytest.raises(TypeError, match=r"data must be a DataLoader, a Dataset or a tuple \(inputs, targets\)"):
            Examples.of(data)
    with pytest.raises(TypeError, match="got 3 entries"):
        Examples.of((X, Y, Y))
    with pytest.raises(TypeError, match="inputs and targets must be tensors or arrays"):
        Examples.of((X, [0, 1]))
    with pytest.raises(ValueError, match=r"one entry an example along their first axis, got shapes \(23, 5\)"):
        Examples.of((X, Y[:5]))
    with pytest.raises(ValueError, match="one entry an example"):
        Examples.of((torch.tensor(1.0), torch.tensor(1.0)))
    with pytest.raises(ValueError, match="examples must lie between 1 and 23, got 24"):
        Examples.of((X, Y)).take(24)
    with pytest.raises(ValueError, match="these batches cannot be cut"):
        Examples.of(DataLoader(Sequences(), batch_size=2, collate_fn=ragged)).take(2)


Point = namedtuple("Point", "x y")


def test_structures_keep_their_form():
    nested = {"a": [torch.ones(2), "text"], "b": Point(torch.zeros(3), (torch.ones(1), 4))}
    doubled = map_tensors(lambda t: 2 * t, nested)
    assert [t.tolist() for t in tensors_of(doubled)] == [[2, 2], [0, 0, 0], [2]]
    assert doubled["a"][1] == "text"
    assert isinstance(doubled["b"], Point)
    assert count_examples(nested) == 1
    assert count_examples((torch.ones(3, 2), torch.ones(7), torch.tensor(0.0))) == 7
    assert count_examples("nothing") == 1
