"""Write redaction_heldout.jsonl: a held-out labelled set for the personal-data detectors.

    python tests/golden/make_redaction_heldout.py

The sentences below were written by hand without looking at a detector or at the first labelled set. A line is
`repeats|text`; in the text `[[kind]]` or `[[kind:style]]` is a value drawn here and labelled, `[[kind=text]]` a labelled
literal, `[[~filler:style]]` a drawn value that must not be found, `%%` the border of two messages and `{names:a,b}` names
known from the contacts that label nothing. A `## heading` starts a group and becomes the note of its cases. Every value is
fictitious; check digits are right where a value is labelled.
"""
# ruff: noqa: E501, SIM905

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import cycle
from pathlib import Path

OUT = Path(__file__).with_name("redaction_heldout.jsonl")
SEED = 20260917

KINDS = {
    "id": "id_card",
    "bank": "bank_card",
    "mobile": "mobile",
    "landline": "landline",
    "email": "email",
    "qq": "qq",
    "wechat": "wechat",
    "plate": "plate",
    "passport": "passport",
    "ip": "ip",
    "address": "address",
    "name": "name",
}

POSITIVES = r"""
## id card in a chat or a form
3|我身份证[[id]]你先帮我挂上号吧
3|身份证号码：[[id]]，麻烦核对一下
2|姓名:李**  证件号 [[id]] 预约时间下周二上午
3|买高铁票用的,乘车人证件[[id]]别输错哈
2|sfz[[id]]，先存你这儿
2|入职登记表\n学历：本科\n公民身份号码：[[id]]\n婚姻：已婚
2|患者女，58岁，住院号0032817，身份证[[id]]，拟行腹腔镜胆囊切除术
2|[[id]] 这个是我妈的，医保卡也绑的这个
2|老师我孩子的身份证是[[id]]出生证明明天补交行吗🙏
2|投诉：你们客服让我报身份证，我报了[[id]]之后就没人理了！！！
2|买保险要填被保人[[id]]（我爸）还有受益人写我
2|身份证[[id]]有效期到2034.05.11
2|1.张先生 [[id]] 已交费；\n2.王女士 [[id]] 未交费
2|酒店入住登记 [[id]]两晚大床房 押金300
2|健康码打不开 能手动登记不 [[id]]
1|证号(最后是小写x)：[[id:lower]]
2|尾号带x的 [[id:lower]] 系统提示格式不对咋整
2|身份证号：[[id:fullx]]。请核实后办理
1|我的是【[[id:full]]】他的是【[[id:full]]】
2|办社保转移用 身份证[[id:sp684]] 谢谢
2|打疫苗的，娃娃证件号[[id:sp6444]]，体重11.5kg
2|实名认证老失败[[id:mixed]]帮我看看是哪位错了
2|大夫您好，门诊病历上写的[[id:plain]]是我老公的，麻烦改成我的[[id:plain]]
2|委托人（身份证号[[id]]）现委托他人代办不动产登记事宜，委托期限自2023年3月1日起
1|群里接龙 3. 刘姐，[[id]]，体检套餐B
2|驾照丢了补办 证号就是身份证[[id]]对吧
1|id:[[id:plain]],type:01,status:OK
1|开发票不用身份证吧?那我发你了[[id:plain]]😂撤不回了
## id card in two messages
1|身份证发你 [[id:split10/]]
1|[[id:split6/]]%%收到了没
1|我分两段发，安全点 [[id:split14/后四位]]
1|老爸的证件号：[[id:split12/剩下的 ]]，别发错群了
1|[[id:split17/最后一位是]]
## bank card in a chat or a form
3|工资打这张卡[[bank]]，开户行是高新支行
3|卡号：[[bank]]  户名：本人
2|退款退到我建行卡吧 [[bank]] 谢谢老板
3|转[[bank]]就行，不用备注
2|农行[[bank]]，钱到了跟我说一声👌
2|住院押金退费申请\n收款银行：工商银行\n账号 [[bank]]\n金额：¥3,260.50
2|你好，我这张[[bank]]被吞在ATM里了，怎么挂失
2|报销单上的银行账号写错了，正确的是[[bank]]请财务更正
2|我有两张卡[[bank]]和[[bank]]，哪张能绑ETC
2|群主收款：[[bank]]（招行），每人86元，今晚十点截止
2|房租还是打到老卡[[bank]]么？
2|绑定失败[[bank]]提示"卡片状态异常"是啥意思啊
2|信用卡[[bank:short]]这期账单怎么多了99的年费，没人跟我说过！
2|公积金提取，收款账户[[bank]]，开户名与申请人一致
2|妈，把钱存[[bank]]这个折子对应的卡里
2|储蓄卡号[[bank:full]]，请在三个工作日内退回货款
2|我念你记啊：[[bank:irregular]]，记好了没
2|卡号 [[bank:hy4]] 有效期别问我，不会告诉你的
2|[[bank:sp4]]\n邮储的\n别转错了
2|银行卡号[[bank:mixed]]前面几位是全角打的，你复制看看行不行
2|医保报销款到账卡：[[bank:plain]]；经办人电话见附件
2|付款方尾号0912，收款方[[bank:plain]]，交易状态：处理中
1|支付宝提现到[[bank:dbl]]要收0.1%手续费
2|老板娘把货款4800转[[bank]]哈，微信超限额了
2|学费缴纳：缴费卡[[bank]]余额不足，请及时存入1200元
2|拼多多商家后台要绑对公还是对私？我填的[[bank]]审核没过
1|我的卡[[bank:plain]]昨天3月2号14:05被扣了两笔25.9
2|社保卡金融账户是这个[[bank]]不是医保账户哦
## bank card in two messages
1|卡号 [[bank:split8/]]
1|[[bank:split12/后面的]]
1|先发前半段[[bank:split10/后半段]]你拼一下
1|打到这个卡[[bank:split4/]]%%招行的
## bank card and id card together
3|开户资料：身份证[[id]]，卡[[bank]]，手机[[mobile]]
2|[[id:plain]]
2|[[bank:plain]]
2|贷款要求提供：证件[[id]]+收款卡[[bank]]，当天放款？靠谱吗
2|代扣协议签约人证件号[[id]]扣款账号[[bank]]每月15日扣
## mobile
2|打我电话[[mobile]]，我在门口等你
2|收件人电话[[mobile]]，周末别送
2|联系方式 [[mobile]] 微信同号
2|二手冰箱出，九成新，要的打[[mobile]]非诚勿扰
2|大夫我复查结果出来了能打给我吗[[mobile]]，晚上八点以后方便
2|紧急联系人：配偶 [[mobile]]
1|+86 [[mobile:sp344]] is my number, 打不通就发短信
1|+86[[mobile:plain]]
2|师傅尾号不对啊，我手机是[[mobile]]，取件码多少？
2|【寻狗】棕色泰迪，左耳缺一块，看到的好心人请联系[[mobile]]，必有重谢！！
2|手机号换成[[mobile]]了，旧的[[mobile]]下个月停
2|加微信就搜[[mobile]]
2|丰巢那个取件短信发到[[mobile:hy344]]了不是我的号
2|电话１：[[mobile:full]] 电话2：[[mobile:plain]]
1|电话[[mobile:split3/]]
1|[[mobile:split7/后四位 ]]
2|家长您好，孩子发烧38.6℃，请尽快来校，班主任[[mobile]]
1|号码[[mobile:mixed]]你存下
1|订餐13份，送到了打[[mobile:plain]]，一共286元
1|公众号后台回复的[[mobile:plain]]是诈骗电话，大家别接
1|我妈血糖13.8，联系不上她的话打[[mobile:sp344]]找我弟
1|tel:[[mobile:plain]];ext:none
## landline
2|门诊预约电话[[landline]]，早八点到晚五点
2|座机打不通啊[[landline]]一直占线
2|传真：[[landline]]，收到请回
2|物业值班[[landline]]，水管爆了先关总阀
2|我家里电话是[[landline]]，白天有老人在
2|单位 [[landline:paren]] 找人事科
1|请拨 [[landline:glued]] 咨询报名
2|售后说让我打[[landline:full]]结果是空号
1|办公室电话[[landline:spaced]]，手机[[mobile]]，都行
1|tel [[landline:plain]]（工作日）
1|刚有个[[landline:plain]]打来说我医保停用了，骗子吧？
## email
2|简历发[[email]]，标题写姓名+岗位
2|报告扫描件发到我邮箱[[email]]谢谢医生
2|邮箱：[[email]]  邮编：100086
2|[[email]]这个邮箱收不到验证码
2|电子发票请开到[[email]]，抬头个人
2|投稿邮箱[[email]]，三个月未回复可自行处理
1|我的邮箱是[[email:full]]，全角的@别介意
2|抄送[[email]]和[[email]]，别漏了
1|E-mail:[[email]],Fax:无
1|有问题写邮件给我吧[[email]]😊微信不常看
1|把ct原片压缩了发[[email]]，附件不要超过50M
## QQ
2|加QQ[[qq]]发你资料
2|qq：[[qq]]，备注拼团
2|我扣扣[[qq]]，晚上九点后在线
2|客服QQ [[qq]] 有事留言
2|微信没有，用的QQ，[[qq]]
2|QQ号码：[[qq:full]]
1|代练接单 企鹅[[qq]] 不成功不收费
1|加我q[[qq]]聊
1|家长QQ号是[[qq]]，孩子的我不知道
1|Q Q: [[qq]] (工作时间秒回)
1|你把qq发我 我的是[[qq]]
## WeChat id
2|加我微信[[wechat]]，备注病友
2|vx：[[wechat]] 批发零售都有
2|微信号是[[wechat]]，头像是只橘猫
2|➕V [[wechat]] 领取减脂食谱💪
2|WeChat: [[wechat]] / 不接电话
2|薇信[[wechat]]，诚招代理，一件代发
1|wx：[[wechat:wxid]]这个号被举报了
1|导出记录里对方的微信id：[[wechat:wxid]]
1|想看房的加一下我威信 [[wechat]] ,房东直租无中介
1|手机坏了，新的微信号码[[wechat]]，老的不用了
1|v信：[[wechat]]（长期收二手书）
## plate
2|车牌[[plate]]的车主，你挡住消防通道了，麻烦挪一下
2|我的车是[[plate]]，停B2
2|快递车[[plate]]把我家墙蹭了不承认
2|网约车 [[plate]] 白色比亚迪，3分钟后到
2|违停告知：[[plate]]，罚款200元记0分
1|新能源的，[[plate:green]]，充电桩能不能登记
2|行车记录仪拍到[[plate]]闯红灯
1|来访登记 车号[[plate:lower]]，找12栋
1|交强险到期提醒：您的爱车[[plate:dot]]将于6月30日到期
1|门口[[plate:plain]]大灯没关！谁的
1|加油卡绑[[plate:green]]还是[[plate:plain]]？
## passport
3|护照号[[passport]]，麻烦出票
2|签证材料：护照[[passport]]，有效期至2031年2月
2|我护照[[passport]]过期了还能换登机牌吗
2|passport no. [[passport]] 姓ZHANG
2|境外就医登记 护照号码：[[passport]] 国籍：中国
2|出境团名单第4位证件：因私护照[[passport]]
2|护照丢在机场了，号是[[passport]]，有人捡到请联系
1|新护照[[passport:full]]，旧的作废了
1|护照换发后[[passport]]要去银行更新信息吗
## IP address
2|登录提醒：您的账号在[[ip]]登录，若非本人请改密
2|服务器[[ip]]又连不上了谁动防火墙了
2|我这边公网ip是[[ip]]，你加下白名单
2|ping [[ip]] 丢包 30%
2|评论区那个黑子IP[[ip]]，一直刷屏
1|远程桌面连[[ip]]:3389 密码问我要
1|日志：2024-01-09 08:12:44 来自[[ip]]的请求被拒绝(403)
1|ip地址：[[ip:full]]
1|宽带改成v6了 [[ip:v6]] 能通
1|DNS解析到[[ip:v6]]才正常，v4的[[ip]]不行
1|异地登录！！地点：广东 IP：[[ip]] 设备：安卓
## address
1|寄到[[address=浙江省杭州市西湖区文三路1478号华禾大厦B座1206室]]，放前台
1|家住[[address=成都市武侯区长寿路909号锦苑小区5栋2单元1401]]，救护车快点
1|收货地址：[[address=广东省深圳市南山区科技园南区高新南七道18号]] 工作日收
1|我在[[address=朝阳区望京西路甲917号院3号楼2单元801]]，你导航过来
1|现住址 [[address=湖北省武汉市武昌区中北路2150号]]，籍贯山东
1|户籍地：[[address=河南省许昌市鄢陵县马栏镇前进村4组17号]]\n现病史：反复咳嗽两周
1|外卖送错了 应该是[[address=海淀区学院南路968号院11栋502]]不是隔壁那家
1|快递别放驿站直接送[[address=苏州市工业园区星湖街1928号创意产业园7幢3楼]]
1|地址[[address=上海市浦东新区张杨路8817弄19号602室]]电话[[mobile]]
1|老家在[[address=湖南省邵阳市隆回县桃洪镇桃花坪街道朝阳路２３号]]，过年寄腊肉给你
1|上门取样：[[address=重庆市渝中区民生路283号附12号]] 门铃坏了打电话
1|房子在[[address=天津市和平区南京路1189号津禾广场2座2305]]，月租4500押一付三
1|急转！老人走失前住[[address=沈阳市和平区南八马路12巷4号楼3单元2楼1号]]，穿灰色棉袄
1|发票寄[[address=济南市历下区经十路39126号]]财务部收
1|患者家住[[address=云南省曲靖市宣威市龙潭镇新街村委会大坪子组38号]]，来院路途约4小时
1|我把地址改成[[address=厦门市思明区湖滨南路990号立禾广场15层]]了，麻烦重新发货
1|麻烦把药寄到[[address=西安市雁塔区小寨东路916号百禾广场A座2108]]，到付
1|注意：[[address=南京市鼓楼区中山北路101号3幢404室]]今日15时停水
## names known from the contacts
2|[[name:a]]明天来复诊吗
1|@[[name:a]] 你的快递到了，在门卫那
2|[[name:a]]：在吗\n[[name:b]]：在，说
2|跟[[name:a]]说一声，[[name:b]]今天请假
2|那个[[name:a]]医生挂号费多少
1|昨天[[name:a]]喝多了，%%是[[name:a]]自己说要喝的
1|[[name=爱吃鱼的猫]]把你拉进了群聊
1|[[name=糖糖妈妈]]问奶粉一段喝到几个月
1|老板 [[name=陈工-暖通]] 说图纸明天给
1|谢谢[[name=欧阳雪晴]]老师🌹
1|患者[[name:a]]，男，42岁，主诉上腹痛3天
2|收款人[[name:a]] 账号[[bank]] 别写错名字
## several kinds in one text
2|姓名：[[name:a]] 性别：女 身份证：[[id]] 手机：[[mobile]] 邮箱：[[email]]
2|登记信息：车牌[[plate]]，电话[[mobile]]，来访事由送药
1|合同甲方联系人[[name:a]]，电话[[landline]]，地址[[address=合肥市蜀山区潜山路1311号润禾大厦A座1803室]]
2|加我QQ[[qq]]或者微信[[wechat]]，打[[mobile]]也行
1|出国体检：护照[[passport]]，身份证[[id]]，体检费680
1|退货寄[[address=青岛市市南区香港中路946号]]，收件人[[name:a]]，[[mobile]]，运费我出
2|补缴材料 身份证[[id]]  卡号[[bank]]  预留手机[[mobile]]
"""

NEGATIVES = r"""
## wrong check digit or date
3|身份证[[~badid]]提示校验不通过，是不是少打了一位
3|测试数据 证件号 [[~badid]] 请勿使用
2|你给的号[[~baddate]]月份都不对，重新发
2|[[~badid]]
2|这个[[~badid:sp684]]查无此人
2|身份证号：[[~badid:full]]（示例，校验位故意写错）
3|卡号[[~badbank]]输错了吧，系统说无效卡号
2|样卡 [[~badbank:sp4]] 仅供展示
2|银行卡[[~badbank:full]]校验失败
2|[[~badbank]]
1|格式例如 XXXXXX19900101XXXX，共18位
1|脱敏后：110***********4321，手机 138****5678
1|尾号6217的储蓄卡3月8日支出128.00元，余额2,310.55元
## order, tracking and invoice numbers
3|订单号[[~digits:18]]怎么还没发货
3|顺丰单号SF[[~digits:13]]，已签收
2|圆通YT[[~digits:13]]卡在中转站三天了
2|京东快递JDVA[[~digits:11]]显示派送中
2|发票代码[[~digits:12]] 发票号码[[~digits:8]] 价税合计1,130.00
2|交易单号 4200[[~digits:24]]
2|商户单号[[~digits:20]]，申请退款56.8
2|中通[[~tracking]] 帮查下到哪了
2|运单：[[~tracking]]，件数：3，重量12.6kg
2|统一社会信用代码91[[~digits:6]]MA[[~digits:6]]2K
2|住院号[[~digits:10]]，床位12-3
2|检验条码：[[~digits:12]]，采样时间07:42
2|流水号2024031[[~digits:10]]，请保存好小票
2|学号20190[[~digits:6]]，宿舍号还没分
2|保单号PDAA2023[[~digits:14]]什么时候生效
2|工单W[[~digits:9]]已转二线，48小时内答复
1|取件码7-2-3018，8号前取走
1|验证码 839271，5分钟内有效，请勿告诉他人
1|案号（2023）京0105民初31274号
1|条形码6921168509256扫不出来
1|条码6901028075831，商品：香烟
2|ICCID [[~iccid]]这个是流量卡的
2|IMEI:[[~imei]]，手机是二手的吗
1|快递柜编码 [[~grouped:18]] 柜门打不开
2|提货券卡密 [[~grouped:12]]，一张抵50
1|充电宝SN：TX13[[~digits:9]]C 租了没还会扣多少
1|医保结算单 结算ID [[~digits:15]]，统筹支付1,386.20，个人账户138.00
1|合同编号HT-2023-0571-[[~digits:8]]盖章后寄回
## phone-like digits that are no phone
2|设备编号[[~noprefix]]，保修到明年
2|时间戳1[[~stamp]]转成北京时间是几点
2|序列号00[[~digits:16]]，贴在机身背面
1|13800字的论文，138页，改了1380遍都没过
1|客服热线400-820-8820，周末也有人
1|请拨4006-778-120转2
1|免费电话８００－８１０－８８８８只能座机打
1|拨打12345反映了，12320也打了，没用
1|95588发来短信说积分要过期，是真的吗
1|120还没到，先打110？
1|10086给我停机了，话费还有15.8
1|文号：国卫办医函〔2021〕13811号
1|电话会议ID 836 2217 450，密码2580
1|我数了下一共15823456粒？不可能吧哈哈
1|尺寸138-156-179三个码，偏大一码
1|票号 [[~digits:3]]-[[~digits:10]] 行程单打不出来
1|水表户号 0[[~digits:12]] 本期用水13吨
1|1390万+1380万合计是2770万元
## doses and drugs
1|阿莫西林胶囊0.5g tid po×7天，饭后服
1|左甲状腺素钠片50μg qd，早餐前半小时，6周后复查TSH
1|二甲双胍500mg bid，血糖仍12.3mmol/L要不要加量？
1|0.9%氯化钠注射液250ml+头孢曲松2.0g ivgtt qd
1|布洛芬混悬液 体重10-12kg 每次4ml，24小时不超过4次
1|胰岛素早12u晚10u，睡前加8u，最近总低血糖
1|甲氨蝶呤10mg每周一次！不是每天！记住了
1|泼尼松 30mg/d ×14d → 25mg/d×14d → 20mg/d，每2周减5mg
1|国药准字H20013091跟国药准字Z11020361能一起吃吗
1|批准文号：国药准字S20210008，批号20230714，有效期至2025.06
1|注册证编号：国械注准20173661234
1|生产批号 B2304178，装量 100片/瓶
1|氯吡格雷75mg+阿司匹林100mg双抗吃满12个月就停一个
## lab values and findings
1|WBC 11.2×10^9/L，N% 82.3，CRP 46.7mg/L，PCT 0.38
1|肝功：ALT 138U/L，AST 96U/L，GGT 210，TBIL 23.4
1|血压150/95，心率88，血氧97%，体温37.3
1|乙肝五项135阳，HBV-DNA 1.38E+07 IU/ml
1|B超示：左肾结石约0.6×0.4cm，右肾囊肿1.2*1.1*0.9cm
1|尿常规：PRO +，RBC 35/ul，WBC 120/ul，pH 6.5，SG 1.020
1|肿瘤标志物CEA 6.21 CA199 138.5 CA125 18.3 AFP 2.4
1|心电图：窦性心律，PR间期186ms，QTc 438ms，V1-V4导联ST段抬高0.2mV
1|孕12+3周，NT 1.3mm，CRL 58mm，HCG 135000，孕酮26.81
1|ICD-10编码：E11.900、I10.x00、K29.500x001
1|手术编码51.2300，麻醉 ASA II级，出血约50ml
1|CT：右肺上叶尖段磨玻璃结节5mm（Se3 Im118），Lung-RADS 2类
1|血型B型RH阳性，Hb 86g/L，输去白红细胞2u，血袋号未见
1|身高162体重58.5，BMI22.3，腰围78，骨密度T值-2.1
1|视力右0.6左0.8，散光-1.25×175，眼压15/16mmHg
1|BRCA1 c.5266dupC (p.Gln1756fs)，EGFR 21外显子L858R突变，丰度13.85%
1|HLA-B*1502阴性，可以用卡马西平
1|GCS 13分（E3V4M6），NIHSS 8分，mRS 2分，Apgar 9-10-10
## references and documents
1|参考文献：PMID: 31978945；doi:10.1056/NEJMoa2001017
1|ISBN 978-7-117-26489-2，第9版，定价98元
1|书号9787302511854到货了，两本一共136
1|ISSN 1001-0939，2019年第35卷第4期：第121-128页
1|临床试验号NCT04280705，ChiCTR2000029308
1|GB/T 19001-2016，YY 0505-2012，IEC 60601-1-2
1|见第3.2.1.4节和附录A.1.2
1|专利号ZL 2018 1 0234567.8
1|京ICP备15001234号-3，京公网安备11010502030143号
## dates, times, ranges, scores, prices
1|2023-11-05 至 2023-11-12 住院，11.13出院带药
1|末次月经20240108，预产期20241015，今天孕几周
1|9:30-11:45，14:00~17:30，周三下午停诊
1|2020.03.15开始吃药，2021.03.15停，2022.3.复发
1|国足 0-3，1-5，0-7，看得我血压180
1|价格 1380-1580-1880 三档，包邮，买3免1
1|12/24 23:59 截止，00:00 抽奖，共 1,000,000 份红包
1|基金净值1.3826，涨2.13%，持有15930.26份，收益138.26
1|彩票03 09 14 22 27 31 + 06，差一个号！
1|中了排列5：13862，复式投了 186 元
1|股票600519跌到1386，000858也跌，300750还行
1|客流量从2019年的1583万涨到2023年的1896万
1|跑步5.21km 配速6'32" 心率152 步数13826
1|血糖记录：早5.6 中7.8 晚6.2 睡前5.9 / 早6.1 中8.0
1|坐标 E116.397428 N39.909230 附近有核酸点吗
1|经度113.264385，纬度23.129112，海拔21m
1|汇率 1美元=7.1382人民币，1 欧=7.7519
1|单价0.0138元/次，调用1500000次，合计20700.00
1|π≈3.14159265358979323846，背到这就忘了
1|6×9=54 18+36=54 138÷3=46 对答案了
1|营养成分：能量1586kJ 19% 蛋白质6.2g 10% 脂肪15.3g 26% 钠138mg 7%
## versions and models
1|Windows 10.0.19045.3803 更新后蓝屏，驱动31.0.15.4601
1|微信8.0.47更新了啥？iOS 17.2.1能装不
1|固件V5.3.8.12345刷完路由器重启
1|华为P60 Pro MNA-AL00 256G 二手3800出
1|显卡RTX4090 24G，电源1000W，主板Z790
1|轴承6205-2RS，内径25外径52宽15，要40个
1|螺丝M6*30 12.9级，电阻10kΩ±1% 1206封装
1|飞利浦呼吸机DS-560，面罩型号 P10 M码
1|型号E12-45678货号G88-10293，红色缺货
1|G1386次 07车12F 二等座 14:08开，检票口B7
1|航班CZ3101延误到23:40，登机口E21
1|GB2312和UTF-8乱码了，0x1F600是啥
1|md5: 9e107d9d372bb6826bd81d3542a419d6 对不上
1|mac地址 00:1A:2B:3C:4D:5E 绑定失败，换网线试试
1|补丁KB5034441装不上，错误0x80070643，.NET 4.8.1
## QQ and WeChat without an account
1|QQ音乐绿钻15元一个月，比网易云贵
1|QQ飞车手游更新到1.38.0.20156，卡死了
1|QQ糖12包整箱发，一箱1380克
1|我QQ等级才48，他都86级了
1|QQ邮箱附件最大能发多少M
1|微信转账2000，微信提现扣2块
1|微信群满500人了，进二群吧
1|用微信支付满100减15，支付宝满200减25
1|wx小程序搜"健康打卡"就行，不用加我
1|我微信步数23861，你呢
1|她把我微信删了😭三年了
1|加v是什么意思，大V认证吗
1|V1-V6胸前导联位置怎么记
1|邮箱满了@所有人 都清一下
1|@客服小美 @all 今天20:00直播，3折起
1|价格@25元/个，100个起
## bare places
1|我老家哈尔滨的，现在在三亚过冬
1|北京上海广州深圳都有门店，详见公众号
1|甘肃省平凉市那边苹果多少钱一斤
1|地铁2号线转10号线，3号口出
1|华西医院跟湘雅医院哪个看肾内好
1|京A牌照和沪C牌照有什么区别
1|粤港澳大湾区规划，川A号段不限行吧
1|皖南医学院弋矶山，考研分数线320
1|3号楼电梯坏了，6层以上走楼梯哈
1|挂5号诊室的专家号，排到28号了
1|从南京到苏州208公里，过路费95
## numbered lists and the rest
1|1.高血压3级 2.2型糖尿病 3.冠心病 4.陈旧性脑梗 5.高脂血症
1|①先空腹抽血②再喝糖水75g③1h、2h各抽一次
1|（1）发热3天；（2）咳嗽、咳黄痰；（3）T 39.1℃，P 112次/分，R 24次/分
1|选项：A.1380 B.1390 C.1580 D.1590
1|护照照片要33mm*48mm白底，护照工本费120
1|身份证复印件要正反面，A4纸，2份
1|银行卡年费10元，小额账户管理费3元/季
1|车牌摇号第38次没中，个人编码忘了
1|ip是知识产权的意思吗，这个IP值10个亿
1|手机号忘了，验证码收不到，怎么办怎么办
1|身份证过期了，号码不变吧，19岁办的
1|{names:高峰,李想}早高峰堵车，高峰期别打车
1|{names:王建国,赵倩}今天来的是新护士，叫啥没记住
1|{names:周敏}他周末过敏了，周围没人管
1|{names:张三丰,大白}挂的是张主任的号，白大褂那个
"""

AREAS = (
    "110105 310115 440305 330106 510107 420106 320106 370202 610113 500103 410105 210102 230103 350203 430102 130102 "
    "340104 530102 450103 620102 650102 220102 140105 360102 520102 460105 640104 150102 630102 540102 120101 411024"
).split()
MOBILES = (
    "130 131 132 133 134 135 136 137 138 139 145 147 150 151 152 153 155 156 157 158 159 166 171 173 175 176 177 178 "
    "180 181 182 183 184 185 186 187 188 189 190 191 193 195 196 198 199"
).split()
# Prefix and length as issued: debit cards mostly 19 digits, credit cards and some banks 16, one bank 18.
BINS = (
    ("622202", 19), ("621700", 19), ("622848", 19), ("621660", 19), ("621799", 19), ("622260", 19), ("623052", 19),
    ("621226", 19), ("621483", 16), ("622622", 16), ("622690", 16), ("622155", 16), ("622521", 16), ("622630", 16),
    ("622909", 18), ("621785", 19),
)  # fmt: skip
CREDIT_BINS = (("622588", 16), ("622230", 16), ("625960", 16), ("628288", 16))
LANDLINES = (
    ("010", 8), ("021", 8), ("022", 8), ("023", 8), ("025", 8), ("027", 8), ("028", 8), ("029", 8), ("0571", 8),
    ("0755", 8), ("0512", 8), ("0371", 8), ("0731", 8), ("0451", 8), ("0833", 7), ("0739", 7), ("0916", 7),
)  # fmt: skip
NAMES = "王晓梅 李建军 张丽华 刘洋 陈思远 杨雪 赵国强 黄淑芬 周子涵 吴志明 徐艳 孙浩然 马桂兰 朱婷婷 胡文博 郭海燕 何俊杰 罗佳怡".split()
LOGINS = "xiaoyu lihua zhangwei0612 chen_meng sunny.lee wuhan2008 pengpeng hr-recruit doctor.liu y_zhou mumu520 tzq kefu88 leo_wang".split()
MAIL_HOSTS = (
    "163.com qq.com 126.com sina.com outlook.com foxmail.com gmail.com hnyy.com.cn mail.xhu.edu.cn yeah.net".split()
)
WECHATS = "lili_1988 abc-yoga2020 wangjie0706 Tangtang520 zxf_fitness hello-moto99 xmm19950214 yanzi_home qingfeng7788 Leo_zhao_sz momo-cake mayday0329 dr_sun_ent hualuo2016 fangdong-lin CC8866521 jiangnan_tea wumm0818".split()
PROVINCES = "京沪津渝冀豫云辽黑湘皖鲁苏浙赣鄂桂甘晋陕吉闽贵粤川琼"
PLATE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
FULL = {ord(c): ord(c) + 0xFEE0 for c in "0123456789X@.-:ABCDEFGHJKLMNPQRSTUVWXYZ"}

rng = random.Random(SEED)
logins, accounts = cycle(LOGINS), cycle(WECHATS)


def digits(count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def id_check(body: str) -> str:
    """The GB 11643 check character of 17 digits."""
    return "10X98765432"[sum(int(c) * 2 ** (17 - i) for i, c in enumerate(body)) % 11]


def luhn_ok(number: str) -> bool:
    values = [int(c) for c in reversed(number)]
    return (sum(values[::2]) + sum(sum(divmod(2 * v, 10)) for v in values[1::2])) % 10 == 0


def id_ok(number: str) -> bool:
    if not re.fullmatch(r"[1-9]\d{16}[\dX]", number) or id_check(number[:17]) != number[17]:
        return False
    try:
        return date(1900, 1, 1) <= date(int(number[6:10]), int(number[10:12]), int(number[12:14])) <= date(2026, 1, 1)
    except ValueError:
        return False


def looks_labelled(text: str) -> bool:
    """Whether some 15 to 19 characters in a row would by chance pass as a card or an identity number."""
    for size in (15, 16, 17, 18, 19):
        for start in range(len(text) - size + 1):
            part = text[start : start + size]
            if (part.isdigit() and luhn_ok(part)) or id_ok(part):
                return True
    return False


def id_card() -> str:
    born = date(1946, 1, 1) + timedelta(days=rng.randrange(365 * 74))
    body = f"{rng.choice(AREAS)}{born:%Y%m%d}{digits(3)}"
    return body + id_check(body)


def bank_card(bins: tuple[tuple[str, int], ...] = BINS) -> str:
    prefix, length = rng.choice(bins)
    return with_luhn(prefix + digits(length - 7))


def cut(value: str, sizes: list[int], joiner: str) -> str:
    """Write a value in groups of the given sizes; the last size repeats."""
    parts, rest = [], value
    while rest:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        parts.append(rest[:size])
        rest = rest[size:]
    return joiner.join(parts)


def spell(value: str, style: str) -> str:
    half = len(value) // 2
    match style:
        case "plain" | "short" | "wxid" | "green" | "v6":
            return value
        case "full" | "fullx":
            return value.translate(FULL)
        case "mixed":
            return value[:half].translate(FULL) + value[half:]
        case "lower":
            return value.lower()
        case "sp684":
            return cut(value, [6, 8, 4], " ")
        case "sp6444":
            return cut(value, [6, 4], " ")
        case "sp4":
            return cut(value, [4], " ")
        case "dbl":
            return cut(value, [4], "  ")
        case "hy4":
            return cut(value, [4], "-")
        case "irregular":
            return cut(value, [3, 3, 5, 2], " ")
        case "sp344":
            return cut(value, [3, 4], " ")
        case "hy344":
            return cut(value, [3, 4], "-")
        case "dot":
            return value[:2] + "·" + value[2:]
        case "gap":
            return value[:2] + " " + value[2:]
    raise ValueError(style)


def landline(style: str) -> str:
    area, length = rng.choice(LANDLINES)
    number = rng.choice("2345678") + digits(length - 1)
    match style:
        case "paren":
            return f"({area}){number}"
        case "glued":
            return area + number
        case "spaced":
            return f"{area} {number[:4]} {number[4:]}"
        case "full":
            return f"{area}-{number}".translate(FULL)
        case _:
            return f"{area}-{number}"


def email(style: str) -> str:
    login, host = next(logins), rng.choice(MAIL_HOSTS)
    # Bare first names at a public host are likely somebody's; with four drawn digits they are hardly so.
    login = (
        rng.choice("123456789") + digits(8)
        if host == "qq.com"
        else login
        if host.endswith(".cn")
        else login + digits(4)
    )
    value = f"{login}@{host}"
    return value.replace("@", "＠") if style == "full" else value


def ip(style: str) -> str:
    if style == "v6":
        return f"240e:3{digits(2)}:{digits(4)}:{rng.randrange(4096):x}::{rng.randrange(1, 65535):x}"
    first = rng.choice([36, 58, 101, 113, 114, 117, 121, 180, 183, 202, 218, 223])
    return spell(
        ".".join(str(v) for v in (first, *(rng.randrange(256) for _ in range(2)), rng.randrange(1, 255))), style
    )


def plate(style: str) -> str:
    head = rng.choice(PROVINCES) + rng.choice(PLATE_LETTERS[:8])
    tail = rng.choice("DF") + digits(5) if style == "green" else digits(2) + rng.choice(PLATE_LETTERS) + digits(2)
    if style != "green" and rng.random() < 0.4:
        tail = rng.choice(PLATE_LETTERS) + digits(4)
    return spell(head + tail, style)


def draw(kind: str, style: str) -> str:
    """One value of a kind in a way of writing."""
    match kind:
        case "id":
            value = id_card()
            while style in ("lower", "fullx") and not value.endswith("X"):
                value = id_card()
            return spell(value, style)
        case "bank":
            return spell(bank_card(CREDIT_BINS if style == "short" else BINS), style)
        case "mobile":
            return spell(rng.choice(MOBILES) + digits(8), style)
        case "landline":
            return landline(style)
        case "email":
            return email(style)
        case "qq":
            return spell(rng.choice("123456789") + digits(rng.choice([5, 7, 8, 8, 9])), style)
        case "wechat":
            token = "".join(rng.choice("abcdefghijkmnpqrstuvwxyz0123456789") for _ in range(12))
            tail = digits(2) if rng.random() < 0.75 else ""
            return f"wxid_{token}21" if style == "wxid" else next(accounts) + tail
        case "passport":
            head = rng.choice(["E", "E" + rng.choice("ABCDEFGHJ")])
            return spell(head + digits(9 - len(head)), style)
        case "ip":
            return ip(style)
        case "plate":
            return plate(style)
    raise ValueError(kind)


STYLES = {
    "id": ("plain", "plain", "plain", "full", "sp684", "sp6444", "mixed"),
    "bank": ("plain", "plain", "plain", "sp4", "sp4", "full", "hy4", "irregular"),
    "mobile": ("plain", "plain", "sp344", "hy344", "full"),
    "landline": ("plain", "plain", "spaced", "paren", "glued"),
    "plate": ("plain", "plain", "dot", "gap", "green"),
}


def tracking(_: str) -> str:
    return "75" + digits(12)


def bad_id(style: str) -> str:
    good = id_card()
    wrong = rng.choice([c for c in "0123456789X" if c != good[17]])
    return spell(good[:17] + wrong, style)


def bad_date(style: str) -> str:
    body = f"{rng.choice(AREAS)}19{digits(2)}{rng.choice(['13', '15', '00', '19'])}{rng.randrange(10, 29)}{digits(3)}"
    return spell(body + id_check(body), style)


def bad_bank(style: str) -> str:
    good = bank_card()
    return spell(good[:-1] + str((int(good[-1]) + rng.randrange(1, 10)) % 10), style)


def with_luhn(body: str) -> str:
    """Serial numbers of phones and SIM cards carry the same check digit as bank cards."""
    return next(body + c for c in "0123456789" if luhn_ok(body + c))


FILLERS: dict[str, Callable[[str], str]] = {
    "badid": bad_id,
    "baddate": bad_date,
    "badbank": bad_bank,
    "digits": lambda style: digits(int(style)),
    "grouped": lambda style: cut(digits(int(style)), [4], " "),
    "iccid": lambda _: with_luhn("89860" + digits(13)),
    "imei": lambda _: with_luhn("86" + digits(12)),
    "tracking": tracking,
    "noprefix": lambda _: rng.choice(["12", "10", "11"]) + digits(9),
    "stamp": lambda _: rng.choice("67") + digits(11),
}


@dataclass
class Case:
    """One case under construction: the messages so far and the labels in them."""

    messages: list[str] = field(default_factory=lambda: [""])
    names: list[str] = field(default_factory=list)
    gold: list[dict[str, str | int]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    people: dict[str, str] = field(default_factory=dict)

    def label(self, kind: str, value: str) -> None:
        start = len(self.messages[-1])
        self.messages[-1] += value
        self.gold.append(
            {"kind": KINDS[kind], "message": len(self.messages) - 1, "start": start, "end": start + len(value)}
        )

    def person(self, slot: str) -> str:
        if slot not in self.people:
            self.people[slot] = rng.choice([n for n in NAMES if n not in self.people.values()])
        return self.people[slot]


def filler(spec: str) -> str:
    """A value that no check accepts, drawn again when chance made it acceptable."""
    kind, _, style = spec.partition(":")
    while True:
        value = FILLERS[kind](style or "plain")
        bare = value.translate({v: k for k, v in FULL.items()}).replace(" ", "")
        if kind in ("iccid", "imei") or not looks_labelled(bare):
            return value


def fill(case: Case, spec: str) -> None:
    if spec.startswith("~"):
        case.messages[-1] += filler(spec[1:])
        return
    kind, equals, literal = spec.partition("=")
    kind, _, style = kind.partition(":")
    if kind == "name":
        literal = literal or case.person(style)
        if literal not in case.names:
            case.names.append(literal)
    if equals or kind == "name":
        case.styles.append(f"{KINDS[kind]}: literal")
        case.label(kind, literal)
        return
    style = style or rng.choice(STYLES.get(kind, ("plain",)))
    case.styles.append(f"{KINDS[kind]}: {style.partition('/')[0]}")
    if not style.startswith("split"):
        case.label(kind, draw(kind, style))
        return
    size, _, lead = style.removeprefix("split").partition("/")
    value = draw(kind, "plain")
    case.label(kind, value[: int(size)])
    case.messages.append(lead)
    case.label(kind, value[int(size) :])


def build(text: str) -> Case:
    case = Case()
    given = re.match(r"\{names:([^}]*)\}", text)
    if given:
        case.names += given[1].split(",")
        text = text[given.end() :]
    for part in re.split(r"(\[\[.*?\]\]|%%)", text.replace("\\n", "\n")):
        if part == "%%":
            case.messages.append("")
        elif part.startswith("[["):
            fill(case, part[2:-2])
        else:
            case.messages[-1] += part
    if case.people and rng.random() < 0.5:
        case.names.append(next(n for n in ("钱多多", "冯宝宝") if n not in case.names))
    return case


def cases(table: str, prefix: str) -> Iterator[dict[str, object]]:
    note, number = "", 0
    for line in table.strip().splitlines():
        if line.startswith("## "):
            note = line[3:]
            continue
        repeats, _, text = line.partition("|")
        for _ in range(int(repeats)):
            case, number = build(text), number + 1
            detail = f" ({', '.join(dict.fromkeys(case.styles))})" if case.styles else ""
            yield {
                "id": f"{prefix}{number:04d}",
                "messages": case.messages,
                "names": case.names,
                "gold": case.gold,
                "note": note + detail,
            }


def main() -> None:
    rows = [*cases(POSITIVES, "hp"), *cases(NEGATIVES, "hn")]
    OUT.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
