"""Hugging Face: a Trainer with a tiny BERT made from a BertConfig, the Trainer's own linear decay, and the callback."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import gpbt_async as gpbt

GENERATOR = torch.Generator().manual_seed(0)
CONFIG = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16, num_labels=2,
)  # fmt: skip


class Sequences(torch.utils.data.Dataset):
    """Is there more of the vocabulary's first half than of its second?"""

    def __init__(self, n):
        self.ids = torch.randint(40, (n, 12), generator=GENERATOR)
        self.labels = ((self.ids < 20).sum(1) > 6).long()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "attention_mask": torch.ones(12), "labels": self.labels[i]}


TRAIN, EVAL = Sequences(128), Sequences(64)


def train(member):
    arguments = TrainingArguments(
        output_dir=str(member.checkpoint), num_train_epochs=1, per_device_train_batch_size=16, eval_strategy="epoch",
        save_strategy="no", logging_strategy="epoch", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(
        model=BertForSequenceClassification(CONFIG),
        args=arguments,
        train_dataset=TRAIN,
        eval_dataset=EVAL,
        callbacks=[gpbt.hf.MemberCallback(member)],
    )
    trainer.train()


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-4, 1e-1, log=True), "weight_decay": gpbt.Float(1e-4, 1e-1, log=True)},
    score="eval_loss",
    mode="min",
)
