"""A Hugging Face Trainer with a tiny BERT: what it imports on its first use is imported inside train."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import gpbt_async as gpbt

CONFIG = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16, num_labels=2,
)  # fmt: skip


class Sequences(torch.utils.data.Dataset):
    def __init__(self, count):
        self.ids = torch.randint(40, (count, 12), generator=torch.Generator().manual_seed(0))
        self.labels = ((self.ids < 20).sum(1) > 6).long()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "attention_mask": torch.ones(12), "labels": self.labels[i]}


def train(member):
    arguments = TrainingArguments(
        output_dir=str(member.checkpoint), num_train_epochs=1, per_device_train_batch_size=16, eval_strategy="epoch",
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    Trainer(
        model=BertForSequenceClassification(CONFIG), args=arguments, train_dataset=Sequences(64),
        eval_dataset=Sequences(32), callbacks=[gpbt.hf.MemberCallback(member)],
    ).train()  # fmt: skip


space = {"lr": gpbt.Float(1e-4, 1e-1, log=True)}
experiment = gpbt.Experiment(train, space=space, score="eval_loss", mode="min", population=6, generations=2)
