"""InceptionV3 with values that inception_weights.c of the tests makes too: no file is committed."""
import torch

from formula import formula


def fill(state):
    """In place, of torch-fidelity's names in the order of their bytes: what names end in tells the
    range, so that features neither vanish nor grow."""
    for stream, name in enumerate(sorted(n for n in state if not n.endswith("num_batches_tracked"))):
        t = state[name]
        x = torch.from_numpy(formula(t.numel(), stream)).reshape(t.shape)
        if name.endswith("conv.weight") or name == "fc.weight":
            bound = (6 / t[0].numel()) ** 0.5
            x = (x * 2 - 1) * torch.tensor(bound, dtype=torch.float32)
        elif name.endswith("running_var"):
            x = x + 0.5
        elif name.endswith("bn.weight"):
            x = x * 0.5 + 0.75
        else:
            x = x - 0.5
        t.copy_(x)
    return state


def extractor():
    """torch-fidelity's own class with these weights, features '2048'."""
    from torch_fidelity import feature_extractor_inceptionv3 as module
    path = "unused"
    load, nothing = torch.load, {}
    torch.load = lambda *a, **k: nothing
    strict = torch.nn.Module.load_state_dict
    torch.nn.Module.load_state_dict = lambda self, state, *a, **k: None
    try:
        net = module.FeatureExtractorInceptionV3("inception", ["2048"],
                                                 feature_extractor_weights_path=path)
    finally:
        torch.load, torch.nn.Module.load_state_dict = load, strict
    fill(net.state_dict())
    return net
