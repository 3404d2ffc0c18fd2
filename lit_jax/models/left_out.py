"""Which model types of transformers' AutoModel are not read, and why."""

from collections.abc import Iterable

from lit_jax.models.composites import COMPOSITES, missing_of
from lit_jax.models.encoders import TEXT, VISION

# Reason -> types. A type that is not listed is newer than this table.
_REASONS = {
    "a text decoder (those of Llama, Mistral, Qwen2, Qwen3 and Gemma 1 to 3 are read)": """
        afmoe apertus arcee axk1 axk2 bailing_hybrid bamba beam biogpt bitnet bloom blt codegen cohere cohere2
        cohere2_moe cpmant ctrl cwm dbrx deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama doge dory dots1
        ernie4_5 ernie4_5_moe exaone exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo flint glm
        glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss
        gptj granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium hrm_text
        hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax internlm3 iquestcoder jais2 jamba jetmoe kimi_linear
        kolibri1 laguna lara_mini lfm2 lfm2_moe lfm3 longcat_flash mamba mamba2 mellum mimo_v2_flash minicpm3 minimax
        minimax_m2 ministral ministral3 mixtral modernbert-decoder mpt nanochat nemotron nemotron_h olmo olmo2
        olmo3 olmo_hybrid olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2_moe qwen3_moe qwen3_next
        recurrent_gemma rwkv sarvam_mla sarvam_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma xglm
        xlstm youtu zamba zamba2 zaya
    """,
    "an encoder and a decoder of texts (encoders of T5, mT5, UMT5, BART, mBART, M2M-100 and Marian are read)": """
        bigbird_pegasus blenderbot blenderbot-small fsmt led longt5 mvp nllb-moe pegasus pegasus_x plbart prophetnet
        switch_transformers t5gemma t5gemma2
    """,
    "the text decoder of a model for pictures or sounds and texts": """
        apertus1p5_text aria_text cohere_compass_text cosmos3_edge_text dots3_note_text gemma3n_text gemma4_text
        gemma4_unified_text glm4v_moe_text glm4v_text glm5_next_text glm_image_text glm_ocr_text granite_docling_text
        hunyuan_vl_text hy_v4_vl_text inkling2_loop_text inkling2_text inkling_text llama4_text minimax_m3_vl_text
        mistral_large4_text molmo2_text muse_glimmer_text muse_spark_text qwen2_5_vl_text qwen2_vl_text
        qwen3_5_moe_text qwen3_5_text qwen3_vl_moe_text qwen3_vl_text qwen4_exp_text voxtral_realtime_text
    """,
    "a text encoder that is not written": """
        canine embedding_gemma2_text flaubert fnet funnel
        mra openai_privacy_filter perceiver reformer roc_bert splinter
        t5gemma2_encoder ultrabert xlm xlnet yoso
    """,
    "a text encoder whose vectors depend on the other texts of their batch": "nystromformer",
    "proteins (ESM-1b and ESM-2 are read)": "esmc evolla",
    "texts with their places on a page or in a table": "bros layoutlm layoutlmv2 layoutlmv3 lilt markuplm tapas udop",
    "an image tower that is not written": """
        cvt dinat donut-swin efficientnet focalnet glm_image_vqmodel hgnet_v2 imagegpt levit mobilenet_v1
        mobilenet_v2 mobilevit mobilevitv2 pixio poolformer pvt pvt_v2 radio regnet segformer swiftformer textnet
        timm_backbone
    """,
    "the image tower of a language model, which reads pictures of any shape as patches": """
        cohere_compass_vision cosmos3_edge_vision exaone4_5_vision gemma3n_vision gemma4_vision glm4v_moe_vision
        glm4v_vision glm5_next_vision glm_image_vision glm_ocr_vision granite_docling_vision hunyuan_vl_vision
        hy_v4_vl_vision idefics3_vision inkling2_vision internvl_vision kimi_k25_vision lfm3_vl_vision
        minicpm_ocr_vision minicpmv4_7_vision muse_glimmer_vision muse_spark_vision pixtral qianfan_ocr_vision
        qwen2_5_vl_vision qwen3_5_moe_vision qwen3_5_vision qwen3_vl_moe_vision qwen3_vl_vision qwen4_exp_vision
        smolvlm_vision video_llama_3_vision
    """,
    "pictures and texts together in one tower": """
        apertus1p5 aria aya_vision blip_2_qformer bridgetower chameleon cohere2_vision cohere_compass cosmos3_edge
        cosmos3_omni deepseek_ocr2 deepseek_vl deepseek_vl_hybrid diffusion_gemma dots3_note embedding_gemma2 emu3
        ernie4_5_vl_moe exaone4_5 fast_vlm florence2 fuyu gemma3 gemma3n gemma4 gemma4_unified git glm46v glm4v
        glm4v_moe glm5_next glm_image glm_ocr glmga got_ocr2 granite4_vision granite_docling hunyuan_vl hy_v4_vl
        hyperclovax_vision_v2 idefics idefics2 idefics3 inkling2 inkling2_loop inkling_mm_model instructblip
        instructblipvideo internvl janus kimi_k25 kosmos-2 kosmos-2.5 lfm2_vl lfm3_vl lighton_ocr llama4 llava
        llava_next llava_next_video llava_onevision lxmert minicpm_ocr minicpmv4_6 minicpmv4_7 minimax_m3_vl mistral3
        mistral4 mistral_large4 mllama modernvbert molmo2 muse_glimmer muse_glimmer_assistant muse_spark neomme ovis2
        paddleocr_vl paligemma perception_lm phi4_multimodal pi0 qianfan_ocr qwen2_5_omni_thinker qwen2_5_vl qwen2_vl
        qwen3_5 qwen3_5_moe qwen3_omni_moe_thinker qwen3_vl qwen3_vl_moe qwen4_exp smolvlm step3p7 ultravbert
        unlimited_ocr video_llama_3 video_llava vilt vipllava visual_bert
    """,
    "objects, segments, depths or letters in a picture": """
        conditional_detr d_fine dab-detr deformable_detr deimv2 depth_pro detr dpt edgetam edgetam_video
        edgetam_vision_model efficientloftr glpn grounding-dino lightglue lw_detr mask2former maskformer
        maskformer-swin mgp-str mm-grounding-dino omdet-turbo oneformer pp_doclayout_v3 pp_doclayout_v4
        pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_medium_det pp_ocrv6_small_det pp_ocrv6_small_rec
        pp_ocrv6_tiny_rec rf_detr rt_detr rt_detr_v2 sam sam2 sam2_hiera_det_model sam2_video sam2_vision_model sam3
        sam3_lite_text sam3_lite_text_text_model sam3_tracker sam3_tracker_video sam3_video sam3_vision_model
        sam3_vit_model sam_hq sam_hq_vision_model sam_vision_model sapiens2 seggpt swin2sr table-transformer uvdoc
        vitdet yolos
    """,
    "video": """
        pe_audio_video pe_audio_video_encoder pe_video pe_video_encoder timesformer tvp videomae
        videoprism_vision_model vivit vjepa2
    """,
    "audio": """
        audio-spectrogram-transformer audioflamingo3 audioflamingo3_encoder bark canary clap clvp cohere_asr csm dac
        data2vec-audio dia encodec fastspeech2_conformer fastspeech2_conformer_with_hifigan fun_asr_nano
        fun_asr_nano_encoder gemma3n_audio gemma4_audio glmasr glmasr_encoder gradium_phonon_tts granite_speech
        granite_speech5_ctc granite_speech5_encoder granite_speech_plus higgs_audio_v2 higgs_audio_v2_tokenizer hubert
        kyutai_speech_to_text lasr_ctc lasr_encoder mimi mimi_decoder mimi_encoder moonshine moonshine_streaming moshi
        moss_transcribe_diarize moss_transcribe_diarize_audio muse_spark_audio musicflamingo musicgen musicgen_melody
        nemo_speechlm nemotron3_5_asr nemotron3_5_transcribe_asr_audio nemotron3_5_transcribe_audio
        nemotron3_5_transcribe_word_timestamp nemotron3_diarization nemotron3_diarization_audio nemotron_asr_streaming
        nemotron_asr_streaming_encoder neucodec omniasr omniasr_audio omniasr_ctc parakeet_ctc parakeet_encoder
        parakeet_rnnt parakeet_tdt pe_audio pe_audio_encoder pocket_tts pocket_tts_audio_tokenizer
        pocket_tts_audio_tokenizer_decoder pocket_tts_audio_tokenizer_encoder qwen2_audio qwen2_audio_encoder
        qwen3_asr qwen3_asr_encoder seamless_m4t seamless_m4t_v2 sew sew-d speech_to_text speecht5 unispeech
        unispeech-sat univnet vibevoice vibevoice_acoustic_tokenizer vibevoice_acoustic_tokenizer_decoder
        vibevoice_acoustic_tokenizer_encoder vibevoice_asr vits voxtral voxtral_encoder voxtral_realtime
        voxtral_realtime_encoder wav2vec2 wav2vec2-bert wav2vec2-conformer wavlm wavtokenizer wavtokenizer_encoder
        whisper xcodec xcodec2
    """,
    "time series": """
        autoformer decision_transformer informer patchtsmixer patchtst time_series_transformer timesfm timesfm2_5
    """,
    "an image tower that is read from a folder of its own": "timm_wrapper",
    "another name of mlcd_vision_model: write that in config.json": "mlcd",
}
# Type -> which part of it is read, for types that are not read completely.
_LIMITS = {
    "eva02": "yes, of timm and open_clip; transformers has no such type",
    "perception_encoder": "yes, of timm and open_clip; transformers has no such type",
    "vitamin": "yes, of timm and open_clip; transformers has no such type",
    "clip_resnet": "yes, of open_clip; transformers has no such type",
    "coca_vision": "yes, of open_clip; transformers has no such type",
    "coca_text": "yes, of open_clip; transformers has no such type",
    "fastvit": "yes, of timm and open_clip; transformers has no such type",
    "mobileclip_vit": "yes, of timm and open_clip; transformers has no such type",
    "mobileclip_text": "yes, of open_clip; transformers has no such type",
    "timm_wrapper": "yes, of timm's image towers those that docs/formats.md names",
    "big_bird": "yes, for texts that transformers attends to in full",
    "xmod": "yes, with the adapters of one language",
}
_REASON_OF = {name: reason for reason, names in _REASONS.items() for name in names.split()}


def reason_of(model_type: str) -> str | None:
    """Why a tower of this type is not read; None for a type that is read, and for one that is unknown here."""
    missing = missing_of(model_type)
    return _REASON_OF.get(model_type) if missing is None else f"a model of two towers: {missing}"


def answers(types: Iterable[str]) -> dict[str, str]:
    """Each of `types`, and each type that is read -> "yes", "yes, a model of two towers", or why not."""
    read = dict.fromkeys((*VISION, *TEXT), "yes") | dict.fromkeys(COMPOSITES, "yes, a model of two towers")
    read |= _LIMITS
    return {name: read.get(name) or reason_of(name) or "not written" for name in sorted({*types, *read})}
