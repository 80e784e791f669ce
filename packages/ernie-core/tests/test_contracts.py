"""Core's own components keep the contracts that plugin authors' components are held to."""

from ernie_core.testing.contracts import (
    BlockContract,
    CodecContract,
    DensityContract,
    FlowLossContract,
    OpSetContract,
    PromptEncoderContract,
    SamplerContract,
)


class TestSharedAdaLNBlock(BlockContract):
    entry = "ernie-shared-adaln"


class TestReferenceOps(OpSetContract):
    entry = "reference"


class TestAutoOps(OpSetContract):
    entry = "auto"


class TestMse(FlowLossContract):
    entry = "mse"


class TestMinSnr(FlowLossContract):
    entry = "min-snr"


class TestUniform(DensityContract):
    entry = "uniform"
    median = 0.5


class TestLogitNormal(DensityContract):
    entry = "logit-normal"
    median = 0.5


class TestMode(DensityContract):
    entry = "mode"


class TestShiftedLogitNormal(DensityContract):
    entry = "shifted-logit-normal"
    options = {"shift": 3.0}
    median = 0.75  # k / (1 + k)


class TestEuler(SamplerContract):
    entry = "euler"
    order = 1


class TestHeun(SamplerContract):
    entry = "heun"
    order = 2
    calls_per_step = 2


class TestAb2(SamplerContract):
    entry = "ab2"
    order = 2


class TestPixelCodec(CodecContract):
    entry = "pixel"
    round_trip_tolerance = 1e-6


class TestBytesEncoder(PromptEncoderContract):
    entry = "bytes"
    options = {"width": 32, "byte_width": 16}
