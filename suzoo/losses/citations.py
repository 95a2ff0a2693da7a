"""BibTeX of the losses by the name of their function, for model cards: `cite("cosent_loss", "rdrop_loss")`."""

from __future__ import annotations


def _post(number: int, title: str, year: int) -> str:
    fields = f"author={{Su, Jianlin}}, title={{{title}}}, year={{{year}}}, url={{https://kexue.fm/archives/{number}}}"
    return f"@online{{kexue{number}, {fields}}}"


def _paper(arxiv: str, author: str, title: str, year: int) -> str:
    key = "arxiv" + arxiv.replace(".", "")
    fields = f"author={{{author}}}, title={{{title}}}, year={{{year}}}, eprint={{{arxiv}}}, archiveprefix={{arXiv}}"
    return f"@misc{{{key}, {fields}}}"


_COSENT = [
    "@article{cosent2024, author={Huang, Xiang and Peng, Hao and Zou, Dongcheng and Liu, Zhiwei and Li, Jianxin and "
    "Liu, Kay and Wu, Jia and Su, Jianlin and Yu, Philip S.}, title={CoSENT: Consistent Sentence Embedding via "
    "Similarity Ranking}, journal={IEEE/ACM Transactions on Audio, Speech, and Language Processing}, year={2024}, "
    "doi={10.1109/TASLP.2024.3402087}}",
    _post(8847, "CoSENT（一）：比Sentence-BERT更有效的句向量方案", 2022),
]
_ANGLE = [_paper("2309.12871", "Li, Xianming and Li, Jing", "AnglE-optimized Text Embeddings", 2023)]
_SIMCSE = [
    _paper(
        "2104.08821",
        "Gao, Tianyu and Yao, Xingcheng and Chen, Danqi",
        "SimCSE: Simple Contrastive Learning of Sentence Embeddings",
        2021,
    ),
    _post(8348, "中文任务还是SOTA吗？我们给SimCSE补充了一些实验", 2021),
]
_SUPCON = [_paper("2004.11362", "Khosla, Prannay and others", "Supervised Contrastive Learning", 2020)]
_FLAT_NCE = [
    _paper(
        "2107.01152",
        "Chen, Junya and others",
        "Simpler, Faster, Stronger: Breaking The log-K Curse On Contrastive Learners With FlatNCE",
        2021,
    ),
    _post(8586, "FlatNCE：小批次对比学习效果差的原因竟是浮点误差？", 2021),
]
_AM_SOFTMAX = [
    _paper(
        "1801.05599",
        "Wang, Feng and Liu, Weiyang and Liu, Haijun and Cheng, Jian",
        "Additive Margin Softmax for Face Verification",
        2018,
    ),
    _post(5743, "基于GRU和AM-Softmax的句子相似度模型", 2018),
]
_TRIANGLE = [_post(8656, "从三角不等式到Margin Softmax", 2021)]
_ARCFACE = [
    _paper(
        "1801.07698",
        "Deng, Jiankang and Guo, Jia and Xue, Niannan and Zafeiriou, Stefanos",
        "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        2018,
    )
]
_TAILR = [
    _paper(
        "2302.13344",
        "Ji, Haozhe and Ke, Pei and Hu, Zhipeng and Zhang, Rongsheng and Huang, Minlie",
        "Tailoring Language Generation Models under Total Variation Distance",
        2023,
    ),
    _post(9526, "缓解交叉熵过度自信的一个简明方案", 2023),
]
_ZLPR = [
    _post(7359, "将“Softmax+交叉熵”推广到多标签分类问题", 2020),
    _paper(
        "2208.02955",
        "Su, Jianlin and Zhu, Mingren and Murtadha, Ahmed and Pan, Shengfeng and Wen, Bo and Liu, Yunfeng",
        "ZLPR: A Novel Loss for Multi-label Classification",
        2022,
    ),
]
_RDROP = [
    _paper("2106.14448", "Liang, Xiaobo and others", "R-Drop: Regularized Dropout for Neural Networks", 2021),
    _post(8496, "又是Dropout两次！这次它做到了有监督任务的SOTA", 2021),
]
_FOCAL = [
    _paper(
        "1708.02002",
        "Lin, Tsung-Yi and Goyal, Priya and Girshick, Ross and He, Kaiming and Doll{\\'a}r, Piotr",
        "Focal Loss for Dense Object Detection",
        2017,
    ),
    _post(4733, "从loss的硬截断、软化到focal loss", 2017),
]
_F1 = [_post(7708, "再谈类别不平衡问题：调节权重与魔改Loss的对比联系", 2020)]
_LOGIT_ADJUSTMENT = [
    _paper("2007.07314", "Menon, Aditya Krishna and others", "Long-tail learning via logit adjustment", 2020),
    _post(7615, "通过互信息思想来缓解类别不平衡问题", 2020),
]
_FLOODING = [
    _paper(
        "2002.08709",
        "Ishida, Takashi and Yamane, Ikko and Sakai, Tomoya and Niu, Gang and Sugiyama, Masashi",
        "Do We Need Zero Training Loss After Achieving Zero Training Error?",
        2020,
    ),
    _post(7643, "我们真的需要把训练集的损失降低到零吗？", 2020),
]

_HEAT = [
    _paper(
        "2211.13228",
        "Chen, Yinpeng and others",
        "Self-Supervised Learning based on Heat Equation",
        2022,
    ),
    _post(9359, "用热传导方程来指导自监督学习", 2022),
]
_SEED = [
    _paper(
        "2101.04731",
        "Fang, Zhiyuan and others",
        "SEED: Self-supervised Distillation For Visual Representation",
        2021,
    )
]
_SENTENCE_DISTILLATION = [
    _paper(
        "2004.09813",
        "Reimers, Nils and Gurevych, Iryna",
        "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
        2020,
    )
]

BIBTEX: dict[str, list[str]] = {
    "CosineLinear": _AM_SOFTMAX,
    "RunningF1": _F1,
    "SoftmaxPairLoss": [
        _paper(
            "1908.10084",
            "Reimers, Nils and Gurevych, Iryna",
            "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
            2019,
        )
    ],
    "alternating_flooding": _FLOODING[1:],
    "am_softmax_loss": _AM_SOFTMAX,
    "angle_scores": _ANGLE,
    "arcface_loss": _ARCFACE,
    "binary_focal_loss": _FOCAL,
    "class_balanced_weights": [
        _paper(
            "1901.05555",
            "Cui, Yin and Jia, Menglin and Lin, Tsung-Yi and Song, Yang and Belongie, Serge",
            "Class-Balanced Loss Based on Effective Number of Samples",
            2019,
        )
    ],
    "class_log_prior": _LOGIT_ADJUSTMENT,
    "contrastive_logits": _SIMCSE,
    "contrastive_loss": _SIMCSE,
    "cosent_loss": _COSENT,
    "cosine_distillation_loss": _SENTENCE_DISTILLATION,
    "cross_entropy_loss": [
        _paper("2204.02311", "Chowdhery, Aakanksha and others", "PaLM: Scaling Language Modeling with Pathways", 2022)
    ],
    "dice_loss": [
        _paper(
            "1606.04797",
            "Milletari, Fausto and Navab, Nassir and Ahmadi, Seyed-Ahmad",
            "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
            2016,
        ),
        *_F1,
    ],
    "estimate_margin": _TRIANGLE,
    "f1_weighted_bce": _F1,
    "flat_nce_loss": _FLAT_NCE,
    "flooding": _FLOODING,
    "focal_loss": _FOCAL,
    "gamma_cross_entropy": _TAILR,
    "global_pointer_divergence": [_post(9039, "GlobalPointer下的“KL散度”应该是怎样的？", 2022)],
    "heat_equation_loss": _HEAT,
    "heat_extrapolate": _HEAT,
    "heat_interpolate": _HEAT[1:],
    "logit_adjusted_cross_entropy": _LOGIT_ADJUSTMENT,
    "metric_distance": _TRIANGLE,
    "multilabel_cross_entropy": _ZLPR,
    "rdrop_loss": _RDROP,
    "rdrop_sum": _RDROP,
    "relation_distillation_loss": _SEED,
    "soft_truncation_loss": _FOCAL[1:],
    "sparse_multilabel_cross_entropy": _ZLPR,
    "supcon_loss": _SUPCON,
    "symmetric_kl": _RDROP,
    "tailr_loss": _TAILR,
}


def cite(*names: str) -> str:
    """BibTeX entries of the named losses, each once, for a model card.

    Raises:
        ValueError: a name that is not a public loss.
    """
    unknown = [name for name in names if name not in BIBTEX]
    if unknown:
        raise ValueError(f"cite: no loss named {', '.join(unknown)}; known are {', '.join(sorted(BIBTEX))}")
    return "\n".join(dict.fromkeys(entry for name in names for entry in BIBTEX[name]))
