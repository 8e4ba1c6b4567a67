"""Which way is better, by the score's name: right or not at all."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpbt_async.declaration.direction import HIGHER, LOWER, direction

MINIMISED = {
    "losses of training scripts": """
        loss val_loss eval_loss train/loss validation_loss test_loss val/loss Loss valLoss NLLLoss BCEWithLogitsLoss
        crossentropyloss elbo_loss policy_loss reward_loss loss_mean loss_epoch loss/val loss_val best_val_loss
        loss_per_token loss_at_end lossless_loss""",
    "scikit-learn": """
        log_loss hamming_loss hinge_loss zero_one_loss brier_score_loss brier_score max_error median_absolute_error
        mean_squared_error mean_absolute_error mean_absolute_percentage_error root_mean_squared_error coverage_error
        davies_bouldin_score""",
    "Keras": """
        val_mae val_mean_squared_error mean_squared_logarithmic_error sparse_categorical_crossentropy squared_hinge
        binary_crossentropy val_kl_divergence logcosh kullback_leibler_divergence""",
    "torchmetrics": """
        MeanSquaredError MeanAbsolutePercentageError MatchErrorRate CalibrationError FrechetInceptionDistance Perplexity
        WordErrorRate""",
    "language and speech": """
        perplexity val_ppl wer cer WER eval_wer word_error_rate bits_per_byte bpc bpd edit_distance nll
        neg_log_likelihood negative_log_likelihood""",
    "images": "fid FID lpips LPIPS kid abs_rel top1_error top-5_error fpr95 fpr_at_95_tpr",
    "search, finance and the rest": """
        regret simple_regret cumulative_regret cost episode_cost aic BIC neg_elbo neg_reward residual residual_norm
        latency miss_rate td_error eer expected_calibration_error rmsle mse rmse mape smape""",
}
MAXIMISED = {
    "training scripts": """
        accuracy acc val_acc val_accuracy Accuracy train/acc eval_accuracy top1 top-1_accuracy acc@1 acc1 acc5
        accuracy_top5 valAccuracy macro_f1 eval_f1""",
    "scikit-learn, whose scorers are negated": """
        neg_mean_squared_error neg_root_mean_squared_error neg_log_loss neg_mean_absolute_error neg_brier_score
        neg_max_error neg_median_absolute_error accuracy_score balanced_accuracy balanced_accuracy_score f1_score
        f1_macro f1_weighted roc_auc roc_auc_score roc_auc_ovr_weighted average_precision average_precision_score
        precision recall matthews_corrcoef cohen_kappa r2 r2_score explained_variance jaccard_score silhouette_score
        adjusted_rand_score
        adjusted_mutual_info_score label_ranking_average_precision_score""",
    "Keras": """
        val_auc categorical_accuracy sparse_top_k_categorical_accuracy precision_at_recall recall_at_precision
        sensitivity_at_specificity mean_io_u val_binary_io_u""",
    "torchmetrics": """
        MulticlassAccuracy BinaryAccuracy BinaryAUROC AUROC MulticlassF1Score MatthewsCorrCoef R2Score JaccardIndex""",
    "ranking": "ndcg ndcg@10 NDCG@10 mrr mean_reciprocal_rank hits@10 hit_rate map@k precision@10 recall@10",
    "language": "bleu BLEU sacrebleu rouge1 rouge2 rougeL rougeLsum ROUGE-L chrf meteor exact_match bertscore_f1",
    "images": """
        mAP mAP50 map50 map_50 mAP50-95 AP50 iou IoU mIoU mean_iou dice dice_score ssim SSIM ms_ssim psnr PSNR
        inception_score clip_score""",
    "reinforcement learning and finance": """
        episode_return episode_reward_mean ep_rew_mean rollout/ep_rew_mean eval/mean_reward return success_rate win_rate
        sharpe sharpe_ratio profit pnl cagr log_likelihood si_sdr throughput negative_loss negMSE""",
}
NOT_GUESSED = {
    "names that may mean either, or nothing": """
    score metric objective value result results time size distance energy r x f y loss_ratio loss_std loss_scale
    generalization_gap accuracy_gap loss_improvement loss_reduction accuracy_drop profit_and_loss profit_loss
    learning_rate ep_len_mean episode_length fitness utility quality similarity cosine_similarity correlation pearson
    entropy kl drawdown max_drawdown volatility memory params duration seconds steps epochs rank mean_rank poisson
    d2_absolute_error_score d2_tweedie_score loss_G loss_D -loss -mse 1-accuracy one_minus_ssim inverse_loss
    neg_negative_likelihood_ratio positive_likelihood_ratio false_negative_rate true_positives false_positives
    error_recall rewards/chosen rewards/margins grad_norm dropout_rate return_code map_size cost_savings diversity
    coverage count total mean max min best final val eval test stop_loss neg_neg_loss loss_score confidence"""
}


def cases(table: dict[str, str]) -> list[str]:
    return [name for names in table.values() for name in names.split()]


@pytest.mark.parametrize("name", cases(MINIMISED))
def test_names_that_are_minimised(name: str) -> None:
    assert direction(name) == "min"


@pytest.mark.parametrize("name", cases(MAXIMISED))
def test_names_that_are_maximised(name: str) -> None:
    assert direction(name) == "max"


@pytest.mark.parametrize("name", cases(NOT_GUESSED))
def test_names_that_leave_a_doubt(name: str) -> None:
    assert direction(name) is None


def test_no_word_is_in_both_lists() -> None:
    assert not LOWER & HIGHER


@pytest.mark.parametrize("name", sorted(LOWER | HIGHER))
def test_every_word_says_by_itself_what_it_says_behind_a_prefix(name: str) -> None:
    wanted = "min" if name in LOWER else "max"
    assert {direction(name), direction(f"val_{name}"), direction(f"eval/{name}"), direction(name.upper())} == {wanted}
    turned = "max" if wanted == "min" else "min"
    assert direction(f"neg_{name}") == turned
    assert direction(f"-{name}") is None


@given(st.text())
def test_any_name_is_judged_or_not_and_nothing_is_raised(name: str) -> None:
    assert direction(name) in ("min", "max", None)


words = st.sampled_from(sorted(LOWER | HIGHER | {"val", "neg", "score", "ratio", "at", "per", "x", "1", "false"}))


@given(st.lists(words, min_size=1, max_size=6), st.sampled_from(["_", "/", " ", "-", "."]))
def test_how_words_are_joined_does_not_matter(names: list[str], joint: str) -> None:
    apart = direction("_".join(names))
    assert direction(joint.join(names)) == apart or names[0] == "1"  # 1-x is one minus x
    if apart is not None and not any(name in ("neg", "false", "1", "x", "ratio") for name in names):
        found = {direction(name) for name in names} - {None}
        assert apart in found  # only what one of its words says


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_/", max_size=12))
def test_what_ends_with_loss_is_never_maximised_unless_negated(prefix: str) -> None:
    if "neg" not in prefix:
        assert direction(prefix + "_loss") in ("min", None)


def test_it_costs_a_training_script_nothing() -> None:
    code = "import sys, gpbt_async.declaration.direction; print([m for m in ('numpy', 'difflib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
