//! How elements lie in buffers: WGSL packs narrow elements into words, and binds large buffers in
//! pieces.

use hetero_hal::DType;

use super::{Access, Dialect, Port, Scalar, Source};

impl Source {
    /// Returns WGSL functions that read and write a buffer that is no plain array: one with packed
    /// elements, or one in pieces.
    ///
    /// Their arguments end in an underscore, which no buffer's name does.
    pub(super) fn accessors(&self, port: &Port) -> String {
        let Some(scalar) = Scalar::of(port.dtype) else { return String::new() };
        let (name, ty) = (&port.name, scalar.spelled(Dialect::Wgsl));
        let packed = packed(port.dtype, self.half);
        if port.pieces == 1 && packed.is_none() {
            return String::new();
        }
        let bits = port.dtype.bits() as u64;
        let (words, index) = match packed {
            // Buffers are cut into pieces of whole words.
            Some(width) => (self.piece / 4, format!("i_ / {}u", 32 / width)),
            None => (self.piece * 8 / bits.max(1), "i_".to_owned()),
        };
        let mut text = String::new();
        let atomic = packed.is_some() && port.access == Access::Write;
        let word = if packed.is_some() { "u32" } else { ty };
        let raw = if packed.is_some() { "u32" } else { storage_wgsl(port.dtype, self.half) };
        let mut each = |function: &str, arguments: &str, returns: &str, action: &dyn Fn(&str) -> String| {
            text += &format!("fn {function}_{name}({arguments}){returns} {{\n");
            if port.pieces == 1 {
                text += &format!("  {}\n}}\n", action(&format!("{name}[w_]")));
                return;
            }
            text += &format!("  switch w_ / {words}u {{\n");
            for piece in 0..port.pieces {
                let case = if piece + 1 == port.pieces { "default".to_owned() } else { format!("case {piece}u") };
                let target = format!("{name}_{piece}[w_ - {}u]", u64::from(piece) * words);
                text += &format!("    {case}: {{ {} }}\n", action(&target));
            }
            text += "  }\n}\n";
        };
        let read =
            |at: &str| if atomic { format!("return atomicLoad(&{at});") } else { format!("return {word}({at});") };
        each("word", "w_: u32", &format!(" -> {word}"), &read);
        if port.access == Access::Write {
            match packed {
                None => each("put", &format!("w_: u32, v_: {ty}"), "", &|at| format!("{at} = {raw}(v_);")),
                Some(_) => each("put", "w_: u32, mask_: u32, v_: u32", "", &|at| {
                    format!("atomicAnd(&{at}, ~mask_); atomicOr(&{at}, v_ & mask_);")
                }),
            }
        }
        let Some(width) = packed else {
            text += &format!("fn load_{name}(i_: u32) -> {ty} {{ return word_{name}(i_); }}\n");
            if port.access == Access::Write {
                text += &format!("fn store_{name}(i_: u32, v_: {ty}) {{ put_{name}(i_, v_); }}\n");
            }
            return text;
        };
        let shift = format!("(i_ % {}u) * {width}u", 32 / width);
        let bits = format!("extractBits(word_{name}({index}), {shift}, {width}u)");
        let (value, store) = match (port.dtype, scalar) {
            (DType::Bool, _) => (format!("{bits} != 0u"), "select(0u, 1u, v_)".to_owned()),
            (DType::BF16, _) => (format!("bitcast<f32>({bits} << 16u)"), "bfloat_bits(v_)".to_owned()),
            (_, Scalar::Int) => (
                format!("extractBits(bitcast<i32>(word_{name}({index})), {shift}, {width}u)"),
                "bitcast<u32>(v_)".to_owned(),
            ),
            _ => (bits, "v_".to_owned()),
        };
        text += &format!("fn load_{name}(i_: u32) -> {ty} {{ return {value}; }}\n");
        if port.access == Access::Write {
            let mask = (1u64 << width) - 1;
            text += &format!(
                "fn store_{name}(i_: u32, v_: {ty}) {{ let s_ = {shift}; put_{name}({index}, {mask}u << s_, {store} << s_); }}\n"
            );
        }
        text
    }
}

/// Returns the type as which a C dialect stores elements.
pub(super) fn storage(dtype: DType, dialect: Dialect) -> &'static str {
    match (dtype, dialect) {
        (DType::Bool | DType::U8, _) => "unsigned char",
        (DType::I8, _) => "signed char",
        (DType::F16, Dialect::OpenClC) => "half",
        (DType::F16 | DType::BF16 | DType::U16, _) => "unsigned short",
        (DType::I16, _) => "short",
        (DType::U32, _) => "unsigned int",
        (DType::I64, Dialect::CudaC) => "long long",
        (DType::U64, Dialect::CudaC) => "unsigned long long",
        (DType::I64, _) => "long",
        (DType::U64, _) => "unsigned long",
        (DType::I32, _) => "int",
        _ => "float",
    }
}

/// Returns the bits of an element, where WGSL packs several elements into a word.
pub(super) fn packed(dtype: DType, half: bool) -> Option<usize> {
    match dtype {
        DType::F16 if half => None,
        _ if dtype.bits() < 32 => Some(dtype.bits()),
        _ => None,
    }
}

/// Returns the type of the elements of a WGSL array.
pub(super) fn storage_wgsl(dtype: DType, half: bool) -> &'static str {
    match dtype {
        DType::F16 if half => "f16",
        DType::F32 => "f32",
        DType::I32 => "i32",
        DType::I64 => "i64",
        DType::U64 => "u64",
        _ => "u32",
    }
}
