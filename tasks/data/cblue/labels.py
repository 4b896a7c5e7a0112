"""The label names of CBLUE's tasks: as the raw files write them, and as PromptCBLUE's rows name them.

Source: the label table that comes with CHIP-CTC, the relation schemas that come with CMeIE, CBLUE's description of its
tasks; PromptCBLUE's names are those that its published rows and their scorer use.
"""

from __future__ import annotations

#: The answer where none of the listed options is right.
NONE_OF_THESE = "非上述类型"
NO_TERM = "没有对应的标准化实体"
NO_ENTITY = "上述句子没有指定类型实体"
NO_RELATION = "没有指定类型的三元组"

#: CHIP-CTC's label of criteria that belong to several categories, and its name in PromptCBLUE's scorer.
MULTIPLE = "Multiple"
MULTIPLE_NAME = "含有多个类别"

#: CHIP-CTC: 43 labels with one category each; the 44th is MULTIPLE. One name has brackets of two widths.
CRITERIA = {
    "Disease": "疾病",
    "Symptom": "症状(患者感受)",
    "Sign": "体征(医生检测）",
    "Pregnancy-related Activity": "怀孕相关",
    "Neoplasm Status": "肿瘤进展",
    "Non-Neoplasm Disease Stage": "疾病分期",
    "Allergy Intolerance": "过敏耐受",
    "Organ or Tissue Status": "器官组织状态",
    "Life Expectancy": "预期寿命",
    "Oral related": "口腔相关",
    "Pharmaceutical Substance or Drug": "药物",
    "Therapy or Surgery": "治疗或手术",
    "Device": "设备",
    "Nursing": "护理",
    "Diagnostic": "诊断",
    "Laboratory Examinations": "实验室检查",
    "Risk Assessment": "风险评估",
    "Receptor Status": "受体状态",
    "Age": "年龄",
    "Special Patient Characteristic": "特殊病人特征",
    "Literacy": "读写能力",
    "Gender": "性别",
    "Education": "教育情况",
    "Address": "居住情况",
    "Ethnicity": "种族",
    "Consent": "知情同意",
    "Enrollment in other studies": "参与其它试验",
    "Researcher Decision": "研究者决定",
    "Capacity": "能力",
    "Ethical Audit": "伦理审查",
    "Compliance with Protocol": "依存性",
    "Addictive Behavior": "成瘾行为",
    "Bedtime": "睡眠",
    "Exercise": "锻炼",
    "Diet": "饮食",
    "Alcohol Consumer": "酒精使用",
    "Sexual related": "性取向",
    "Smoking Status": "吸烟状况",
    "Blood Donation": "献血",
    "Encounter": "病例来源",
    "Disabilities": "残疾群体",
    "Healthy": "健康群体",
    "Data Accessible": "数据可及性",
}

#: KUAKE-QIC: names that changed between the raw files and PromptCBLUE; the others did not.
OTHER_INTENT = "其他"
INTENTS = {
    "病情诊断": "病情诊断",
    "病因分析": "病因分析",
    "治疗方案": "治疗方案",
    "就医建议": "就医建议",
    "指标解读": "指标解读",
    "疾病表述": "疾病描述",
    "后果表述": "后果表述",
    "注意事项": "注意事项",
    "功效作用": "功效作用",
    "医疗费用": "医疗费用",
}

SAME_MEANING = {"1": "是的", "0": "不是"}
#: KUAKE-QQR: the raw label 0 joins two of PromptCBLUE's four relations; see QQR_UNKNOWN.
QUERY_RELATIONS = {"2": "完全一致", "1": "后者是前者的语义子集", "0": "语义无直接关联"}
QQR_UNKNOWN = "后者是前者的语义父集"
QQR_OPTIONS = ("完全一致", "后者是前者的语义子集", QQR_UNKNOWN, "语义无直接关联")
MATCHES = {
    "0": "完全不匹配或者没有参考价值",
    "1": "很少匹配有一些参考价值",
    "2": "部分匹配",
    "3": "完全匹配",
}

ENTITY_TYPES = {
    "dis": "疾病",
    "sym": "临床表现",
    "dru": "药物",
    "equ": "医疗设备",
    "pro": "医疗程序",
    "bod": "身体部位",
    "ite": "医学检验项目",
    "mic": "微生物类",
    "dep": "医院科室",
}

#: CMeIE: the 44 predicates of its 53 schemas.
RELATIONS = (
    "预防",
    "阶段",
    "就诊科室",
    "同义词",
    "辅助治疗",
    "化疗",
    "放射治疗",
    "手术治疗",
    "实验室检查",
    "影像学检查",
    "辅助检查",
    "组织学检查",
    "内窥镜检查",
    "筛查",
    "多发群体",
    "发病率",
    "发病年龄",
    "多发地区",
    "发病性别倾向",
    "死亡率",
    "多发季节",
    "传播途径",
    "并发症",
    "病理分型",
    "相关（导致）",
    "鉴别诊断",
    "相关（转化）",
    "相关（症状）",
    "临床表现",
    "治疗后症状",
    "侵及周围组织转移的症状",
    "病因",
    "高危因素",
    "风险评估因素",
    "病史",
    "遗传因素",
    "发病机制",
    "病理生理",
    "药物治疗",
    "发病部位",
    "转移部位",
    "外侵部位",
    "预后状况",
    "预后生存率",
)
