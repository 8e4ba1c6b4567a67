"""Direction: whether more or less of a score is better, where its name can mean one thing only.

`Experiment(score="val_loss")` needs no mode, `score="score"` needs one. A wrong guess would search for the worst model,
so a name decides only when it leaves no doubt; "distance", "energy" or "time" do not.

A name is split into words (`val/IoULoss` → val, io, u, loss) and read as an English compound: the last word is its
subject. Words behind the subject that only say which, how or when ("_mean", "_epoch", "_score", "@10", "per token",
"at …") are removed first. "neg" and "negative" reverse the meaning, as in scikit-learn's scorers. A name that ends with
"loss" is minimised, as in Keras and Hugging Face. A name whose words point both ways does not decide.
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
#: words that have a direction only together
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
#: words behind the subject that only say which, how or when
AFTER = _words_in(
    """
    mean avg average epoch step val valid validation eval evaluation test train training dev final best last min max
    median macro micro weighted samples total sum ema overall all percent pct rate k top score coefficient index
    metric ovr ovo
    """
)
#: these follow a subject that is maximised; behind one that is minimised they leave a doubt (d2_error_score)
_OF_HIGHER = frozenset(("score", "coefficient", "index"))
#: alone an accuracy; before another word they only say which one (top1_error)
_WHICH = frozenset(("top1", "top5"))
#: words that reverse a meaning, once
_NEGATIONS = frozenset(("neg", "negative", "negated"))
#: words that make a score another one: a part, a difference, the inverse; or profit and loss
_DOUBTFUL = _words_in(
    """
    minus inverse inv reciprocal improvement reduction gain gains drop decrease increase change delta diff gap ratio
    std var d2 stop time seconds inaccuracy
    """
)


def direction(score: str) -> str | None:
    """ "min" or "max" where a score's name can mean only one; None where it can mean both, or neither."""
    if re.match(r"\s*(-|1\s*-)", score):  # minus something, one minus something
        return None
    words = words_of(score)
    negations = sum(word in _NEGATIONS for word in words[:-1])
    if negations and {"true", "false"} & set(words):  # false_negative_rate
        negations = 0
    mode = _mode_of([word for word in words if word not in _NEGATIONS] if negations else words)
    if mode is None or negations > 1:
        return None
    return mode if not negations else "max" if mode == "min" else "min"


def words_of(score: str) -> list[str]:
    """The words of a metric's name, in lower case: valLoss, val/loss and val_loss have the same."""
    snake_case = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", score)
    return [word for word in re.split(r"[^a-z0-9]+", snake_case.lower()) if word]


def _mode_of(words: list[str]) -> str | None:
    """The mode of words without a negation."""
    words = _head(words)
    if not words:
        return None
    phrase = _phrase(words)
    if phrase is None and (_DOUBTFUL & set(words) or _plain(words[-1]) is None):
        return None
    mode = phrase or _plain(words[-1])
    others = {_plain(word) for word in words[:-1] if word not in _WHICH} - {None, mode}
    if others and not (words[-1].endswith("loss") and not {"profit", "win", "wins"} & set(words)):
        return None  # the words point both ways
    return mode


def _head(words: list[str]) -> list[str]:
    """The words without those behind the subject."""
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
    for mode, phrases in (("min", LOWER_PHRASES), ("max", HIGHER_PHRASES)):
        if any(end == phrase or end.endswith(" " + phrase) for phrase in phrases):
            return mode
    return None


def _plain(word: str) -> str | None:
    """The mode of one word, with or without a number at its end (acc5, map50, rouge1)."""
    for spelled in (word, word.rstrip("0123456789")):
        if spelled in HIGHER:
            return "max"
        if spelled in LOWER or (spelled.endswith("loss") and len(spelled) > 3):
            return "min"
    return "max" if word.endswith("accuracy") else None
