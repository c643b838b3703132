"""The tiny recipe in a shape that the GPU's kernels take."""

STEPS = 50
SETTINGS = [
    "model.hidden_size=128",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "model.head_dim=64",
    "model.intermediate_size=256",
    "model.max_position_embeddings=128",
    "training.context=128",
    "training.batch_tokens=2048",
    "training.micro_batch_windows=8",
    "training.device=cuda",
    f"stages.pretrain.tokens={2048 * 40}",
    f"stages.chat.tokens={2048 * (STEPS - 40)}",
    "checkpoints.every_steps=20",
    "evaluation.every_steps=25",
]
