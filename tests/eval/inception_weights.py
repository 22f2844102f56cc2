"""InceptionV3 with values that test_inception.c makes too, so that no file is committed."""
import torch

from formula import formula


def fill(state):
    """In place, of torch-fidelity's names in the order of their bytes: what names end in tells the
    range, so that features neither vanish nor grow."""
    names = sorted(name for name in state if not name.endswith("num_batches_tracked"))
    for stream, name in enumerate(names):
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
    """torch-fidelity's own class with these weights, features '2048'; it wants a file, and is kept
    from reading one."""
    from torch_fidelity import feature_extractor_inceptionv3 as module
    load, load_state = torch.load, torch.nn.Module.load_state_dict
    torch.load = lambda *a, **k: None
    torch.nn.Module.load_state_dict = lambda self, state, *a, **k: None
    try:
        net = module.FeatureExtractorInceptionV3("inception", ["2048"],
                                                 feature_extractor_weights_path="none")
    finally:
        torch.load, torch.nn.Module.load_state_dict = load, load_state
    fill(net.state_dict())
    return net
