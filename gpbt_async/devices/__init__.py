"""Devices: GPUs and CPU cores as slots, from NVML to CUDA_VISIBLE_DEVICES.

What may live here: what a run may train on, and which member trains on what. Not here: processes, and the engine, which
counts slots and knows nothing of GPUs.

The waist is `discovery.discover(request)`, which returns a `slots.Pool`: the scheduler leases a `Slot` from it, binds a
process to it, asks for a verdict when a member has failed, and shows its `rows()` (storage/gpu_report.DeviceStatus).

A GPU has three shapes on its way: `nvml.GPU`, its identity; `device.Device`, that and all a run knows of it; and its
UUID in a `Slot`. Modules, from the driver up:

    nvml            the questions for NVIDIA's library, in the one thread that asks them
    gpu_selection   which GPUs: NVML, CUDA_VISIBLE_DEVICES, --gpus, MIG         (pure)
    health          may a GPU be given out?                                     (pure)
    xids            who is to blame for an error of a GPU                       (pure)
    device          one GPU, and whose its memory is                            (pure)
    gpu_sharing     which member gets which GPUs, and how many share one        (pure)
    monitor         a stream of what NVML reports
    gpu_pool        applies that stream, and leases the GPUs;  slots: the CPU's
    request         what options and experiment ask for;  discovery: what there is
"""
