//! Tensors in host memory: immutable values that share their bytes.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};

/// Returns the number of elements of a shape.
/// The answer is `None` where that number is more than any memory holds.
/// In a shape with sizes of 0, the product of the other sizes has the same limit.
/// So neither the elements of a part of a tensor nor their bytes overflow, even where the whole is
/// empty.
///
/// ```
/// assert_eq!(hetero_hal::element_count(&[2, 3, 4]), Some(24));
/// assert_eq!(hetero_hal::element_count(&[]), Some(1));
/// assert_eq!(hetero_hal::element_count(&[0, 1 << 40, 2]), Some(0));
/// assert_eq!(hetero_hal::element_count(&[0, usize::MAX, 2]), None);
/// assert_eq!(hetero_hal::element_count(&[usize::MAX, 2]), None);
/// ```
#[must_use]
pub fn element_count(shape: &[usize]) -> Option<usize> {
    const MOST: usize = isize::MAX as usize / 16;
    let mut sizes = shape.iter().filter(|&&size| size != 0);
    let count = sizes.try_fold(1usize, |count, &size| count.checked_mul(size)).filter(|&count| count <= MOST)?;
    Some(if shape.contains(&0) { 0 } else { count })
}

/// Who is told, by being dropped, that a content is not held any more.
type Keeper = Option<Arc<dyn Any + Send + Sync>>;

#[derive(Clone)]
enum Data {
    Bytes(Bytes),
    Strings { texts: Arc<[Arc<str>]>, _keeper: Keeper },
    Parts(Arc<Parts>),
}

/// The parts of a sequence or an optional.
///
/// They lie in chunks, each larger than the next one, so that a sequence that is another one with a
/// part more shares most chunks with it: a part is copied as often as the number of parts doubles.
struct Parts {
    chunks: Vec<Arc<[Tensor]>>,
    /// All chunks in one, once somebody asked for that.
    whole: OnceLock<Arc<[Tensor]>>,
    /// How deep sequences lie in each other here, this one included.
    depth: usize,
    /// The memory of the parts, as [`Tensor::footprint`] counts it.
    footprint: usize,
    _keeper: Keeper,
}

impl Parts {
    fn all(&self) -> &[Tensor] {
        match &*self.chunks {
            [] => &[],
            [only] => only,
            chunks => self.whole.get_or_init(|| chunks.iter().flat_map(|chunk| chunk.iter().cloned()).collect()),
        }
    }

    fn part(&self, index: usize) -> Option<&Tensor> {
        let mut left = index;
        for chunk in &self.chunks {
            match left.checked_sub(chunk.len()) {
                Some(behind) => left = behind,
                None => return chunk.get(left),
            }
        }
        None
    }

    /// Returns the chunks, as few as there are.
    fn chunks(&self) -> Vec<Arc<[Tensor]>> {
        self.whole.get().map_or_else(|| self.chunks.clone(), |whole| vec![whole.clone()])
    }
}

/// Returns how deep sequences lie in each other in one with these parts.
fn depth_around<'a>(parts: impl IntoIterator<Item = &'a Tensor>) -> Result<usize> {
    let depth = |part: &Tensor| if let Data::Parts(parts) = &part.data { parts.depth } else { 0 };
    match parts.into_iter().map(depth).max().unwrap_or(0) {
        depth if depth < DEEPEST => Ok(depth + 1),
        _ => {
            Err(Error::invalid_argument(format!("sequences and optionals lie more than {DEEPEST} deep in each other")))
        }
    }
}

/// The most sequences and optionals that lie in each other.
/// The standard's types need three, and a bound keeps whoever walks over them from running deep.
const DEEPEST: usize = 8;

/// An immutable, dense, row-major tensor in host memory.
///
/// Clones share the bytes, which may be a slice of a memory-mapped file.
/// Such bytes are not necessarily aligned for the element type, and [`Tensor::view`] copies them
/// where they are not.
///
/// ```
/// use hetero_hal::{DType, Tensor};
///
/// let tensor = Tensor::from_vec(&[2, 2], vec![1.0f32, 2.0, 3.0, 4.0])?;
/// assert_eq!(tensor.dtype(), DType::F32);
/// assert_eq!(tensor.shape(), [2, 2]);
/// assert_eq!(&*tensor.view::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
/// assert!(tensor.view::<i32>().is_err());
/// # Ok::<(), hetero_hal::Error>(())
/// ```
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Box<[usize]>,
    data: Data,
}

// What keeps a tensor's memory is only ever dropped, so nobody sees it half changed after a panic.
impl std::panic::UnwindSafe for Tensor {}
impl std::panic::RefUnwindSafe for Tensor {}

/// A `Vec<T>` that stays alive behind a [`Bytes`], so that no element is copied on the way in.
struct VecBytes<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for VecBytes<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Bytes that hold their keeper.
struct KeptBytes {
    bytes: Bytes,
    _keeper: Arc<dyn Any + Send + Sync>,
}

impl AsRef<[u8]> for KeptBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Tensor {
    /// Makes a tensor over existing bytes, little-endian, row-major, packed as [`DType::bytes_for`]
    /// says.
    ///
    /// # Errors
    /// `InvalidModel` where shape and type need another number of bytes, and for strings, sequences
    /// and optionals, which have no bytes.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Bytes) -> Result<Self> {
        if dtype == DType::String {
            return Err(Error::invalid_model("a string tensor has no bytes").with_remedy("use Tensor::from_strings"));
        }
        if dtype.is_parts() {
            return Err(Error::invalid_model(format!("a {dtype} has no bytes")).with_remedy("use Tensor::from_parts"));
        }
        let needed = element_count(shape).and_then(|count| dtype.bytes_for(count));
        match needed {
            Some(needed) if needed == bytes.len() => {
                Ok(Tensor { dtype, shape: shape.into(), data: Data::Bytes(bytes) })
            }
            Some(needed) => Err(Error::invalid_model(format!(
                "a {dtype} tensor of shape {shape:?} takes {needed} bytes, not {}",
                bytes.len()
            ))),
            None => Err(Error::invalid_model(format!(
                "the size of a {dtype} tensor of shape {shape:?} overflows the address space"
            ))),
        }
    }

    /// Makes a tensor that takes over `elements`, row-major.
    ///
    /// # Errors
    /// `InvalidArgument` where the shape has another number of elements.
    pub fn from_vec<T: Element>(shape: &[usize], elements: Vec<T>) -> Result<Self> {
        check_count(shape, elements.len())?;
        let data = Data::Bytes(Bytes::from_owner(VecBytes(elements)));
        Ok(Tensor { dtype: T::DTYPE, shape: shape.into(), data })
    }

    /// Makes a tensor of strings, row-major.
    ///
    /// # Errors
    /// `InvalidArgument` where the shape has another number of elements.
    pub fn from_strings(shape: &[usize], strings: Vec<Arc<str>>) -> Result<Self> {
        check_count(shape, strings.len())?;
        Ok(Tensor {
            dtype: DType::String,
            shape: shape.into(),
            data: Data::Strings { texts: strings.into(), _keeper: None },
        })
    }

    /// Makes a sequence of tensors, or an optional of one tensor or none.
    /// It is a tensor of rank 1 whose elements are the parts.
    ///
    /// ```
    /// use hetero_hal::{DType, Tensor};
    ///
    /// let parts = vec![Tensor::scalar(1.0f32), Tensor::scalar(2i64)];
    /// let sequence = Tensor::from_parts(DType::Sequence, parts)?;
    /// assert_eq!(sequence.shape(), [2]);
    /// assert_eq!(sequence.parts()?[1], Tensor::scalar(2i64));
    /// let optional = Tensor::from_parts(DType::Optional, vec![sequence])?;
    /// assert_eq!(optional.len(), 1);
    /// # Ok::<(), hetero_hal::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for another element type, for an optional of several parts, and where
    /// sequences and optionals lie too deep in each other.
    pub fn from_parts(dtype: DType, parts: Vec<Tensor>) -> Result<Self> {
        if !dtype.is_parts() {
            return Err(Error::invalid_argument(format!("the elements of a {dtype} tensor are no whole tensors")));
        }
        if dtype == DType::Optional && parts.len() > 1 {
            return Err(Error::invalid_argument(format!("{} parts for an optional, which has one", parts.len())));
        }
        let own = parts.len().saturating_mul(size_of::<Tensor>());
        let footprint = parts.iter().fold(own, |sum, part| sum.saturating_add(part.footprint()));
        let (depth, shape) = (depth_around(&parts)?, [parts.len()].into());
        let chunks = if parts.is_empty() { vec![] } else { vec![parts.into()] };
        let parts = Parts { chunks, whole: OnceLock::new(), depth, footprint, _keeper: None };
        Ok(Tensor { dtype, shape, data: Data::Parts(Arc::new(parts)) })
    }

    /// Returns the sequence that has one more part at its end.
    /// It shares memory with this one, so a sequence that grows part by part takes a time that
    /// grows little faster than the number of its parts.
    ///
    /// # Errors
    /// `InvalidArgument` where this is no sequence, or sequences lie too deep in each other.
    pub fn followed_by(&self, part: Tensor) -> Result<Self> {
        let Data::Parts(parts) = &self.data else {
            return Err(Error::invalid_argument(format!("{self:?} is no sequence")));
        };
        if self.dtype != DType::Sequence {
            return Err(Error::invalid_argument(format!("{self:?} is no sequence")));
        }
        let depth = parts.depth.max(depth_around([&part])?);
        let footprint = parts.footprint.saturating_add(part.footprint()).saturating_add(size_of::<Tensor>());
        let mut chunks = parts.chunks();
        let mut last: Arc<[Tensor]> = [part].into();
        while let Some(before) = chunks.pop_if(|before| before.len() <= last.len()) {
            last = before.iter().chain(&*last).cloned().collect();
        }
        chunks.push(last);
        let shape = [self.len() + 1].into();
        let parts = Parts { chunks, whole: OnceLock::new(), depth, footprint, _keeper: None };
        Ok(Tensor { dtype: self.dtype, shape, data: Data::Parts(Arc::new(parts)) })
    }

    /// Returns the same tensor, which holds `keeper` for as long as anybody holds the content.
    /// So whoever counts memory learns when that of the content is not used any more.
    #[must_use]
    pub fn kept_by(self, keeper: Arc<dyn Any + Send + Sync>) -> Self {
        let data = match self.data {
            Data::Bytes(bytes) => Data::Bytes(Bytes::from_owner(KeptBytes { bytes, _keeper: keeper })),
            Data::Strings { texts, .. } => Data::Strings { texts, _keeper: Some(keeper) },
            Data::Parts(parts) => Data::Parts(Arc::new(Parts {
                chunks: parts.chunks(),
                whole: OnceLock::new(),
                depth: parts.depth,
                footprint: parts.footprint,
                _keeper: Some(keeper),
            })),
        };
        Tensor { data, ..self }
    }

    /// Makes a tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Self {
        let data = Data::Bytes(Bytes::from_owner(VecBytes(vec![value])));
        Tensor { dtype: T::DTYPE, shape: Box::default(), data }
    }

    /// Returns the same elements under another shape.
    ///
    /// # Errors
    /// `InvalidArgument` where the shape has another number of elements, or another rank than the 1
    /// that sequences and optionals have.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Self> {
        check_count(shape, self.len())?;
        if self.dtype.is_parts() && shape.len() != 1 {
            return Err(Error::invalid_argument(format!("{self:?} does not take the shape {shape:?}")));
        }
        Ok(Tensor { dtype: self.dtype, shape: shape.into(), data: self.data.clone() })
    }

    /// Returns the element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the sizes of the dimensions, outermost first; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        // The constructors have checked that this does not overflow.
        self.shape.iter().product()
    }

    /// Tells whether the tensor has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Returns the address and the length of the raw bytes: tensors at one place share them for as
    /// long as both live.
    /// Strings, sequences and optionals have no bytes that tell them apart.
    #[must_use]
    pub fn place(&self) -> (usize, usize) {
        (self.bytes().as_ptr() as usize, self.bytes().len())
    }

    /// Returns the raw bytes; empty for strings, sequences and optionals.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.data {
            Data::Bytes(bytes) => bytes,
            Data::Strings { .. } | Data::Parts(_) => &NONE,
        }
    }

    /// Returns the elements as `T`: borrowed where the bytes are aligned for it, else copied.
    ///
    /// # Errors
    /// `InvalidArgument` where the tensor's element type is not `T`'s.
    pub fn view<T: Element>(&self) -> Result<Cow<'_, [T]>> {
        if self.dtype != T::DTYPE {
            return Err(Error::invalid_argument(format!("a {} tensor was read as {}", self.dtype, T::DTYPE)));
        }
        Ok(match bytemuck::try_cast_slice(self.bytes()) {
            Ok(slice) => Cow::Borrowed(slice),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(self.bytes())),
        })
    }

    /// Returns the elements of a string tensor.
    ///
    /// # Errors
    /// `InvalidArgument` where the tensor has another element type.
    pub fn strings(&self) -> Result<&[Arc<str>]> {
        match &self.data {
            Data::Strings { texts, .. } => Ok(texts),
            _ => Err(Error::invalid_argument(format!("a {} tensor was read as strings", self.dtype))),
        }
    }

    /// Returns the parts of a sequence or an optional.
    ///
    /// # Errors
    /// `InvalidArgument` where the tensor has another element type.
    pub fn parts(&self) -> Result<&[Tensor]> {
        match &self.data {
            Data::Parts(parts) => Ok(parts.all()),
            _ => Err(Error::invalid_argument(format!("a {} tensor was read as a sequence", self.dtype))),
        }
    }

    /// Returns one part of a sequence or an optional, `None` where it has fewer.
    /// In contrast to [`Tensor::parts`] it does not bring the parts of a sequence together that
    /// grew part by part.
    #[must_use]
    pub fn part(&self, index: usize) -> Option<&Tensor> {
        if let Data::Parts(parts) = &self.data { parts.part(index) } else { None }
    }

    /// Returns the bytes of memory that the content takes, those of texts and of parts included.
    /// What several tensors or elements share counts for each of them.
    #[must_use]
    pub fn footprint(&self) -> usize {
        match &self.data {
            Data::Bytes(bytes) => bytes.len(),
            Data::Strings { texts: strings, .. } => {
                let texts = strings.iter().fold(0usize, |sum, text| sum.saturating_add(text.len()));
                texts.saturating_add(size_of_val::<[Arc<str>]>(strings))
            }
            Data::Parts(parts) => parts.footprint,
        }
    }

    /// Returns the elements of an `int64` or `int32` tensor as `i64`, such as a shape, axes or
    /// sizes.
    ///
    /// # Errors
    /// `InvalidArgument` for another element type.
    pub fn to_i64_vec(&self) -> Result<Vec<i64>> {
        match self.dtype {
            DType::I32 => Ok(self.view::<i32>()?.iter().map(|&v| i64::from(v)).collect()),
            _ => Ok(self.view::<i64>()?.into_owned()),
        }
    }
}

fn check_count(shape: &[usize], elements: usize) -> Result<()> {
    match element_count(shape) {
        Some(count) if count == elements => Ok(()),
        Some(_) => Err(Error::invalid_argument(format!("{elements} elements do not fill the shape {shape:?}"))),
        None => Err(Error::invalid_argument(format!("the size of the shape {shape:?} overflows the address space"))),
    }
}

/// Tensors are equal where their element types, shapes and bits are, or their texts or parts.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && match (&self.data, &other.data) {
                (Data::Bytes(a), Data::Bytes(b)) => a == b,
                (Data::Strings { texts: a, .. }, Data::Strings { texts: b, .. }) => a == b,
                (Data::Parts(a), Data::Parts(b)) => Arc::ptr_eq(a, b) || a.all() == b.all(),
                _ => false,
            }
    }
}

/// The text has the type and the shape only: there may be many elements.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_that_grows_is_what_it_would_be_at_once() {
        let numbers = |count: i64| (0..count).map(Tensor::scalar).collect::<Vec<_>>();
        let mut grown = Tensor::from_parts(DType::Sequence, numbers(3)).unwrap();
        let mut former = Vec::new();
        for number in 3..100 {
            former.push(grown.clone());
            grown = grown.followed_by(Tensor::scalar(number)).unwrap();
            // Whoever asks for all parts changes nothing for those who come later.
            if number % 17 == 0 {
                assert_eq!(grown.parts().unwrap().len() as i64, number + 1);
            }
        }
        let at_once = Tensor::from_parts(DType::Sequence, numbers(100)).unwrap();
        assert_eq!(grown, at_once);
        assert_eq!((grown.footprint(), grown.shape()), (at_once.footprint(), at_once.shape()));
        assert_eq!((grown.part(64), grown.part(100)), (Some(&Tensor::scalar(64i64)), None));
        for (index, former) in (3..).zip(former) {
            assert_eq!(former, Tensor::from_parts(DType::Sequence, numbers(index)).unwrap());
        }
        let nothing = Tensor::from_parts(DType::Sequence, vec![]).unwrap();
        assert_eq!(nothing.followed_by(Tensor::scalar(1i64)).unwrap().parts().unwrap().len(), 1);
        assert!(Tensor::scalar(1i64).followed_by(Tensor::scalar(1i64)).is_err());
        let mut deep = nothing;
        let deepest = (0..20).find(|_| match grown.followed_by(deep.clone()) {
            Ok(around) => {
                deep = around;
                false
            }
            Err(_) => true,
        });
        assert_eq!(deepest, Some(DEEPEST - 1));
    }

    #[test]
    fn a_keeper_goes_with_the_last_who_holds_the_content() {
        let texts = Tensor::from_strings(&[1], vec!["a".into()]).unwrap();
        let parts = Tensor::from_parts(DType::Sequence, vec![texts.clone()]).unwrap();
        for tensor in [texts, parts, Tensor::scalar(1i64)] {
            let keeper = Arc::new(());
            let kept = tensor.clone().kept_by(keeper.clone());
            let other = kept.clone();
            assert!(kept == tensor);
            drop(kept);
            assert_eq!(Arc::strong_count(&keeper), 2);
            drop(other);
            assert_eq!(Arc::strong_count(&keeper), 1);
        }
    }

    #[test]
    fn parts_of_empty_tensors_do_not_overflow() {
        assert_eq!(element_count(&[3, 0, 5]), Some(0));
        let error = Tensor::from_vec::<f32>(&[1 << 40, 0, 1 << 40], vec![]).unwrap_err();
        assert!(error.to_string().contains("overflows"), "{error}");
        assert!(Tensor::from_strings(&[usize::MAX, usize::MAX, 0], vec![]).is_err());
    }

    #[test]
    fn bytes_must_fill_the_shape() {
        assert!(Tensor::from_bytes(DType::F32, &[2], Bytes::from_static(&[0; 8])).is_ok());
        assert!(Tensor::from_bytes(DType::F32, &[2], Bytes::from_static(&[0; 7])).is_err());
        assert!(Tensor::from_bytes(DType::F32, &[1 << 40, 1 << 40], Bytes::new()).is_err());
        assert!(Tensor::from_bytes(DType::String, &[0], Bytes::new()).is_err());
        assert!(Tensor::from_bytes(DType::I4, &[3], Bytes::from_static(&[0; 2])).is_ok());
    }

    #[test]
    fn sequences_hold_tensors_and_their_memory() {
        let part = Tensor::from_vec(&[4], vec![1i32, 2, 3, 4]).unwrap();
        let text = Tensor::from_strings(&[1], vec!["four".into()]).unwrap();
        let sequence = Tensor::from_parts(DType::Sequence, vec![part.clone(), text.clone()]).unwrap();
        assert_eq!((sequence.dtype(), sequence.shape(), sequence.bytes().len()), (DType::Sequence, &[2][..], 0));
        assert_eq!(sequence.footprint(), 16 + 4 + size_of::<Arc<str>>() + 2 * size_of::<Tensor>());
        assert_eq!(sequence, Tensor::from_parts(DType::Sequence, vec![part.clone(), text.clone()]).unwrap());
        assert_ne!(sequence, Tensor::from_parts(DType::Sequence, vec![text.clone(), part.clone()]).unwrap());
        let optional = Tensor::from_parts(DType::Optional, vec![sequence.clone()]).unwrap();
        assert_eq!(optional.parts().unwrap(), std::slice::from_ref(&sequence));
        assert!(optional.view::<i32>().is_err() && optional.strings().is_err() && part.parts().is_err());
        assert!(Tensor::from_parts(DType::Optional, vec![part.clone(), part.clone()]).is_err());
        assert!(Tensor::from_parts(DType::I32, vec![]).is_err());
        assert!(Tensor::from_bytes(DType::Sequence, &[0], Bytes::new()).is_err());
        assert!(sequence.reshaped(&[1, 2]).is_err() && sequence.reshaped(&[2]).is_ok());
    }

    #[test]
    fn sequences_do_not_lie_in_each_other_without_end() {
        let mut inner = Tensor::from_parts(DType::Sequence, vec![]).unwrap();
        for _ in 1..DEEPEST {
            inner = Tensor::from_parts(DType::Sequence, vec![inner.clone(), inner]).unwrap();
        }
        assert_eq!(inner.footprint(), ((2 << (DEEPEST - 1)) - 2) * size_of::<Tensor>());
        let error = Tensor::from_parts(DType::Optional, vec![inner]).unwrap_err();
        assert!(error.message().contains("deep"), "{error}");
    }

    #[test]
    fn misaligned_bytes_are_copied_on_view() {
        let storage: Vec<u8> = (0..9).collect();
        let bytes = Bytes::from(storage);
        for start in 0..2 {
            let slice = bytes.slice(start..start + 8);
            let tensor = Tensor::from_bytes(DType::I32, &[2], slice.clone()).unwrap();
            let expected: Vec<i32> = slice.chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
            assert_eq!(&*tensor.view::<i32>().unwrap(), expected);
        }
    }

    #[test]
    fn reshape_shares_bytes() {
        let tensor = Tensor::from_vec(&[6], vec![0u8, 1, 2, 3, 4, 5]).unwrap();
        let other = tensor.reshaped(&[2, 3]).unwrap();
        assert_eq!(tensor.bytes().as_ptr(), other.bytes().as_ptr());
        assert!(tensor.reshaped(&[7]).is_err());
    }
}
