"""Models inside other modules, beside parameters that are no plain tensors, converted, compiled."""
import unittest
import warnings

import torch
from torch import nn

import sara
from comparison import LoopCase, few, loss_of, names_of, net, train, written
from support import relative

ONE_LINE = r"\A[^\n]+\Z"


class Around(nn.Module):
    """A training module with the model as a part, as scripts have it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.scale = model, nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x):
        return self.model(x) * self.scale


class DataParallel(LoopCase):
    def test_at_the_root(self):
        plain = net()
        one = few(plain)
        train(plain, one, range(3))
        for wrap in (nn.DataParallel, lambda m: nn.DataParallel(nn.DataParallel(m)),
                     lambda m: torch.compile(nn.DataParallel(m), backend="eager"),
                     lambda m: nn.DataParallel(torch.compile(m, backend="eager"))):
            inner = net()
            model = wrap(inner)
            optimizer = few(model)
            self.assertEqual(names_of(optimizer), names_of(one))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                train(model, optimizer, range(3))
            self.assertSameRun((inner, optimizer), (plain, one))
            self.assertAdapterHolds(optimizer, inner, net())

    def test_inside_a_larger_module(self):
        for wrap in (nn.DataParallel, lambda m: torch.compile(m, backend="eager"),
                     lambda m: nn.DataParallel(torch.compile(m, backend="eager"))):
            plain, wrapped = Around(net()), Around(wrap(net()))
            one, two = few(plain), few(wrapped)
            self.assertEqual(names_of(two), names_of(one))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                train(plain, one, range(2))
                train(wrapped, two, range(2))
            for p, q in zip(plain.parameters(), wrapped.parameters()):
                self.assertTrue(torch.equal(p, q))
            self.assertEqual(two.base_sha256, one.base_sha256)
            path = self.file()
            two.save(path)
            other = Around(net())
            sara.apply(other, path)
            self.assertSameWeights(other, plain)

    def test_a_part_that_is_called_module(self):
        """It is no wrapper: its name stays."""
        model = Around(net())
        model.module = nn.Linear(80, 70)
        self.assertIn("module.weight", sara.select(model, threshold=0.05))

    def test_adapters_on_a_wrapped_model(self):
        plain = net()
        optimizer = few(plain)
        train(plain, optimizer, range(2))
        path = self.file()
        optimizer.save(path)
        model = nn.DataParallel(net())
        sara.apply(model, path)
        self.assertSameWeights(model.module, plain)
        sara.remove(model)
        self.assertSameWeights(model.module, net())

    def test_patterns_are_of_the_bare_names(self):
        self.assertEqual(names_of(few(nn.DataParallel(net()), include="0.*")),
                         names_of(few(net(), include="0.*")))


class FrozenBeside(LoopCase):
    """Frozen parameters that are no plain tensors: trained beside, or refused by name at once."""

    def check(self, part, name):
        model = nn.Sequential(part, nn.Linear(80, 90))
        before = model[1].weight.detach().clone()
        try:
            optimizer = few(model)
        except ValueError as error:
            self.assertRegex(str(error), rf"{name}.*")
            self.assertRegex(str(error), ONE_LINE)
            return
        for _ in range(2):
            model(torch.ones(2, 80)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertFalse(torch.equal(model[1].weight, before))
        path = self.file()
        optimizer.save(path)
        self.assertIn("1.weight", names_of(optimizer))

    def test_offloaded(self):
        from accelerate import cpu_offload
        part = nn.Linear(80, 80).requires_grad_(False)
        self.check(cpu_offload(part, execution_device=torch.device("cpu")), "0.weight")

    def test_on_meta_and_never_used(self):
        part = nn.Identity()
        part.extra = nn.Parameter(torch.empty(4, device="meta"), requires_grad=False)
        self.check(part, "0.extra")

    def test_sparse(self):
        for layout in ("to_sparse", "to_sparse_csr"):
            part = nn.Identity()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mask = getattr(torch.eye(4), layout)()
            part.mask = nn.Parameter(mask, requires_grad=False)
            self.check(part, "0.mask")

    def test_of_other_kinds(self):
        for kind in (torch.int8, torch.float64, torch.bool, torch.complex64, torch.float8_e4m3fn):
            part = nn.Identity()
            part.other = nn.Parameter(torch.ones(4).to(kind), requires_grad=False)
            with self.subTest(kind):
                self.check(part, "0.other")

    def test_of_a_class_of_its_own(self):
        class Wrapped(torch.Tensor):
            pass
        part = nn.Identity()
        part.other = nn.Parameter(torch.ones(4).as_subclass(Wrapped), requires_grad=False)
        self.check(part, "0.other")

    def test_not_loaded_yet(self):
        """Lazy layers have no shape before the first forward pass."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            part = nn.LazyLinear(80)
        with self.assertRaisesRegex(ValueError, r"0\.(weight|bias)"):
            few(nn.Sequential(part, nn.Linear(80, 90)))


class Compiled(LoopCase):
    def test_inside_compiled_autograd(self):
        """It runs to the same numbers, or one line names it."""
        plain, model = net(), net()
        one, optimizer = few(plain), few(model)
        train(plain, one, range(2))
        compiled = torch.compile(model, backend="aot_eager")
        torch._dynamo.reset()
        with torch._dynamo.config.patch(compiled_autograd=True):
            try:
                train(compiled, optimizer, range(2))
            except RuntimeError as error:
                self.assertRegex(str(error), "compiled autograd")
                return
        for p, q in zip(plain.parameters(), model.parameters()):
            self.assertLessEqual(relative(q, p), 1e-5)

    def test_a_compiled_step(self):
        """torch.compile around step() as some scripts have it: it runs, to the same bits."""
        plain, model = net(), net()
        one, optimizer = few(plain), few(model)
        step = torch.compile(lambda: optimizer.step(), backend="eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in range(2):
                loss_of(model, seed).backward()
                step()
                optimizer.zero_grad()
        train(plain, one, range(2))
        self.assertSameRun((model, optimizer), (plain, one))


class Converted(LoopCase):
    """model.to(...) after the optimiser was made."""

    def check(self, convert, dtype):
        plain, model = net(), net()
        one, optimizer = few(plain), few(model)
        train(plain, one, range(2))
        train(model, optimizer, range(2))
        before = written(model)
        convert(model)
        train(model, optimizer, range(2, 4))
        train(plain, one, range(2, 4))
        self.assertEqual(model[0].weight.dtype, dtype)
        for name, p in plain.named_parameters():
            mine = dict(model.named_parameters())[name]
            change = p.detach().double() - before[name].double()
            error = mine.detach().double() - p.detach().double()
            tolerance = 1e-5 if dtype is not torch.bfloat16 else 1
            self.assertTrue(error.norm() <= tolerance * change.norm(), name)

    def test_to_double(self):
        self.check(lambda model: model.double(), torch.float64)

    def test_swapped(self):
        """torch.__future__.set_swap_module_params_on_conversion: it runs, or torch says that it
        cannot swap the parameter, as it is watched."""
        for dtype in (torch.float64, torch.bfloat16):
            torch.__future__.set_swap_module_params_on_conversion(True)
            try:
                self.check(lambda model: model.to(dtype), dtype)
            except RuntimeError as error:
                self.assertRegex(str(error), "Couldn't swap Linear.weight")
            finally:
                torch.__future__.set_swap_module_params_on_conversion(False)

    def test_swapped_by_load_state_dict(self):
        """The same switch has load_state_dict swap the tensors: training goes on from them."""
        model, fresh = net(), net(1)
        optimizer = few(model)
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            model.load_state_dict(written(net(1)))
            train(model, optimizer, range(2))
        except RuntimeError as error:
            self.assertRegex(str(error), "swapping the parameter named \"0.weight\"")
            return
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)
        other = few(fresh)
        train(fresh, other, range(2))
        self.assertSameRun((model, optimizer), (fresh, other))


class Checkpoints(LoopCase):
    def test_distributed_checkpoints_functions(self):
        """They look for the model's parameters in the optimiser: one line says what to do."""
        from torch.distributed.checkpoint import state_dict as dcp
        model = net()
        optimizer = few(model)
        train(model, optimizer, [0])
        for call in (lambda: dcp.get_optimizer_state_dict(model, optimizer),
                     lambda: dcp.get_state_dict(model, optimizer)):
            with self.assertRaisesRegex((ValueError, RuntimeError), "state_dict") as caught:
                call()
            self.assertRegex(str(caught.exception), ONE_LINE)

    def test_their_model_functions(self):
        """The model's own part needs nothing."""
        from torch.distributed.checkpoint import state_dict as dcp
        model = net()
        optimizer = few(model)
        train(model, optimizer, [0])
        other = net()
        dcp.set_model_state_dict(other, dcp.get_model_state_dict(model))
        self.assertSameWeights(other, model)


class OnAnAdapter(LoopCase):
    def test_training_on_top_of_an_applied_adapter(self):
        """Its base is no longer there: one line names sara.merge and sara.remove."""
        trained = net()
        optimizer = few(trained)
        train(trained, optimizer, range(2))
        path = self.file()
        optimizer.save(path)
        model = net()
        sara.apply(model, path)
        with self.assertRaisesRegex(ValueError, "merge") as caught:
            few(model)
        self.assertRegex(str(caught.exception), ONE_LINE)
        sara.remove(model)
        train(model, few(model), [0])
        model = net()
        sara.merge(model, path)
        second = few(model)
        train(model, second, [0])
        base = net()
        sara.merge(base, path)
        self.assertAdapterHolds(second, model, base)

    def test_applied_to_a_model_in_training(self):
        """The values count as written: training goes on from them."""
        trained = net()
        first = few(trained, lr=0.01)
        train(trained, first, range(3))
        path = self.file()
        first.save(path)
        model = net()
        optimizer = few(model, lambda_rank=0)
        train(model, optimizer, [0])
        sara.apply(model, path, force=True)
        applied = written(model)
        train(model, optimizer, [1])
        for name, p in model.named_parameters():
            moved = float((p.detach() - applied[name]).abs().max())
            self.assertTrue(0 < moved <= 3e-3, (name, moved))


if __name__ == "__main__":
    unittest.main()
