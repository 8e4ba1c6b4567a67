"""Which way is better: what the name of a score says about it, where it can mean one thing only.

`Experiment(score="val_loss")` needs no mode, `score="score"` needs one. A wrong guess would search for the worst model,
so a name is judged only when it leaves no doubt, and "distance", "energy" or "time" are not guessed.

A name is split into words (`val/IoULoss` → val, io, u, loss), and read as English compounds are: the last word is what
it is about. Words behind it that only say which, how or when ("_mean", "_epoch", "_score", "@10", "per token", "at …")
are left out first. "neg" and "negative" turn the meaning around, as in scikit-learn's scorers. A name that ends with
"loss" is minimised, as Keras and Hugging Face have it. A name whose words point both ways is not judged.
"""

from __future__ import annotations

import re


def _words_in(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: errors and losses; language and speech; images and audio; detection, statistics, systems
LOWER = _words_in(
    """
    loss losses error errors err mse rmse mae mape smape wmape mase msle rmsle nrmse medae mdape crps hinge logcosh
    crossentropy nll residual residuals brier ece cost costs regret violations
    perplexity ppl wer cer ter bpc bpb bpd
    fid kid lpips niqe brisque hausdorff chamfer epe mcd
    eer fpr fnr aurc aic bic failure failures latency makespan
    """
)
#: classification and regression; ranking; language and speech; images; likelihoods; reinforcement learning and finance
HIGHER = _words_in(
    """
    accuracy accuracies acc auc auroc aucroc auprc aupr roc prauc f1 fbeta f2 fmeasure precision prec recall
    sensitivity specificity tpr tnr r2 mcc kappa matthews rsquared top1 top5 silhouette
    ndcg dcg mrr map hits hit
    bleu sacrebleu rouge chrf meteor bertscore pesq stoi sdr sisdr snr sisnr
    iou miou dice jaccard ssim msssim psnr ap
    likelihood loglikelihood loglik elbo elpd
    return returns reward rewards rew success successes win wins winrate solved elo
    sharpe sortino calmar profit revenue pnl cagr throughput
    """
)
#: several words that mean something together, and only so
LOWER_PHRASES = (
    "cross entropy", "kl divergence", "kld", "js divergence", "leibler divergence", "edit distance",
    "levenshtein distance", "inception distance", "frechet distance", "abs rel", "davies bouldin", "false alarm",
    "log cosh", "squared hinge", "brier score", "miss rate", "bits per byte", "bits per char", "bits per character",
    "bits per dim", "bits per dimension", "residual norm",
)  # fmt: skip
HIGHER_PHRASES = (
    "io u", "f score", "f measure", "f beta", "auc pr", "reciprocal rank", "rouge l", "rouge lsum", "exact match",
    "explained variance", "inception score", "clip score", "rand score", "rand index", "mutual info", "sharpe ratio",
    "sortino ratio", "calmar ratio", "ms ssim", "log prob", "calinski harabasz", "v measure", "average precision",
    "r squared", "matthews corrcoef", "matthews corr coef", "matthews correlation", "pass rate",
)  # fmt: skip
#: words behind the one that counts which say only which, how or when
AFTER = _words_in(
    """
    mean avg average epoch step val valid validation eval evaluation test train training dev final best last min max
    median macro micro weighted samples total sum ema overall all percent pct rate k top score coefficient index
    metric ovr ovo
    """
)
#: these follow something that is maximised; behind something to be minimised they are in doubt (d2_error_score)
_OF_HIGHER = frozenset(("score", "coefficient", "index"))
#: an accuracy by themselves, and before another word which one it is (top1_error)
_WHICH = frozenset(("top1", "top5"))
#: words that turn a meaning around, once
_NEGATIONS = frozenset(("neg", "negative", "negated"))
#: words that make of a score another one: a part, a difference, the inverse; or profit and loss
_DOUBTFUL = _words_in(
    """
    minus inverse inv reciprocal improvement reduction gain gains drop decrease increase change delta diff gap ratio
    std var d2 stop time seconds inaccuracy
    """
)


def direction(score: str) -> str | None:
    """ "min" or "max" where the name of a score can mean only one; None where it can mean both, or neither."""
    if re.match(r"\s*(-|1\s*-)", score):  # minus something, one minus something
        return None
    words = _words(score)
    turned = sum(word in _NEGATIONS for word in words[:-1])
    if turned and {"true", "false"} & set(words):  # false_negative_rate
        turned = 0
    meant = _meant([word for word in words if word not in _NEGATIONS] if turned else words)
    if meant is None or turned > 1:
        return None
    return meant if not turned else "max" if meant == "min" else "min"


def _words(score: str) -> list[str]:
    apart = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", score)
    return [word for word in re.split(r"[^a-z0-9]+", apart.lower()) if word]


def _meant(words: list[str]) -> str | None:
    """What the words say, with no negation among them."""
    words = _head(words)
    if not words:
        return None
    phrase = _phrase(words)
    if phrase is None and (_DOUBTFUL & set(words) or _plain(words[-1]) is None):
        return None
    found = phrase or _plain(words[-1])
    others = {_plain(word) for word in words[:-1] if word not in _WHICH} - {None, found}
    if others and not (words[-1].endswith("loss") and not {"profit", "win", "wins"} & set(words)):
        return None  # the words point both ways
    return found


def _head(words: list[str]) -> list[str]:
    """Without what follows the word that counts."""
    for link in ("at", "per"):
        if link in words[1:] and _phrase(words) is None:
            words = words[: words.index(link, 1)]
    while len(words) > 1 and _phrase(words) is None and _plain(words[-1]) is None:
        last = words[-1]
        if not (last in AFTER or last.isdecimal()):
            return words
        if last in _OF_HIGHER and _plain(words[-2]) == "min":
            return []
        words = words[:-1]
    return words


def _phrase(words: list[str]) -> str | None:
    end = " ".join(words[-3:])
    for meant, phrases in (("min", LOWER_PHRASES), ("max", HIGHER_PHRASES)):
        if any(end == phrase or end.endswith(" " + phrase) for phrase in phrases):
            return meant
    return None


def _plain(word: str) -> str | None:
    """What one word says, with or without a number at its end (acc5, map50, rouge1)."""
    for spelled in (word, word.rstrip("0123456789")):
        if spelled in HIGHER:
            return "max"
        if spelled in LOWER or (spelled.endswith("loss") and len(spelled) > 3):
            return "min"
    return "max" if word.endswith("accuracy") else None
