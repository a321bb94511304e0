"""BranchyNet-style image classifier: easy images leave early."""

import torch.nn as nn
import torch.nn.functional as F


class ConvBlock(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )

    def forward(self, x):
        return self.body(x)


class ExitHead(nn.Module):
    def __init__(self, c, n_classes):
        super().__init__()
        self.fc = nn.Linear(c, n_classes)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.fc(x)


class EarlyExitCNN(nn.Module):
    def __init__(self, n_classes=5, width=8, depth=4, threshold=0.4):
        super().__init__()
        chans = [3] + [width * (i + 1) for i in range(depth)]
        self.blocks = nn.ModuleList(ConvBlock(a, b) for a, b in zip(chans[:-1], chans[1:]))
        self.exits = nn.ModuleList(ExitHead(c, n_classes) for c in chans[1:])
        self.threshold = threshold

    def forward(self, x):
        for i, (block, head) in enumerate(zip(self.blocks, self.exits)):
            x = block(x)
            logits = head(x)
            conf, pred = F.softmax(logits, dim=-1).max(dim=-1)
            if conf.item() > self.threshold or i == len(self.blocks) - 1:
                return {"logits": logits, "label": pred, "exit": i}
