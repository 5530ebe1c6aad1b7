//! The serial form of an executable: its packed weights, each with the digest of the constants that
//! it was made of.
//!
//! The form begins with a header of 64 bytes: a magic, a key, the number of weights, the table's
//! length and the table's digest.
//! The table follows: for each weight the digest of its constants, the offset, length and digest of
//! its bytes, and its layout.
//! The bytes of each weight begin at a multiple of 64.
//!
//! A reader trusts nothing: a weight that does not fit its digest, its constants or the length that
//! the kernel reads is packed again.
//! A digest finds damage and not forgery.
//! So whoever can write the form can change results, but can do no other harm.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hetero_hal::{Error, ErrorKind, Result, Tensor, Weight};
use hetero_kit::{Held, Weights, digest};

use crate::floats::Floats;
use crate::memory::Account;
use crate::simd::Isa;

/// The first bytes of the form; each version of the form has its own.
const MAGIC: &[u8; 8] = b"heterow1";
/// The multiple at which the bytes of a weight begin, and the length of the header.
const ALIGNMENT: usize = 64;
/// The bytes of a table's row, before its layout.
const ROW: usize = 52;

/// Returns a digest of everything that the packed form of a constant depends on, beside the
/// constant and the layout.
pub(crate) fn key(isa: Isa) -> u128 {
    let order = if cfg!(target_endian = "little") { "little" } else { "big" };
    digest(format!("{} {} {order} {isa}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH).as_bytes())
}

/// Returns a digest that tells lists of constants apart by all of their bytes.
fn digest_of(sources: &[Tensor]) -> u128 {
    let mut parts = String::new();
    for source in sources {
        let bytes = digest(source.bytes());
        parts += &format!("{} {:?} {bytes:032x}\n", source.dtype(), source.shape());
    }
    digest(parts.as_bytes())
}

/// A constant in the form in which a kernel reads it, shared by all kernels of the device that read
/// this form.
/// A kernel takes its value once in a run.
pub(crate) type Packed = Arc<Held<Floats>>;

/// The sources of a kernel's packed weights: the device's other executables, a serial form, or the
/// packing.
#[derive(Clone, Copy)]
pub(crate) struct Packer<'a> {
    pub(crate) weights: &'a Weights<Floats>,
    pub(crate) saved: Option<&'a Saved>,
    /// What the weights take memory from.
    pub(crate) account: &'a Account,
}

impl Packer<'_> {
    /// Returns the form of `elements` elements that `make` makes of the sources, for which it takes
    /// so many bytes beside while it works; see [`Weights::get`].
    /// The memory is taken before it is allocated, and given back when the form is dropped or
    /// evicted.
    pub(crate) fn get(
        self,
        name: &str,
        sources: &[Tensor],
        (layout, elements, beside): (&str, usize, usize),
        make: impl Fn(&[Tensor]) -> Result<Floats> + Send + Sync + 'static,
    ) -> Result<Packed> {
        let bytes = elements.saturating_mul(size_of::<f32>());
        let ready = |sources: &[Tensor]| {
            let (saved, taken) = (self.saved?, self.account.take(bytes).ok()?);
            Some(saved.find(layout, sources, elements)?.counted(taken))
        };
        let (account, of): (Account, Box<str>) = (self.account.clone(), name.into());
        let make = move |sources: &[Tensor]| {
            let taken = account.take(bytes).map_err(|error| beyond("the weight", &of, &error))?;
            let meanwhile = account.take(beside);
            let _meanwhile = meanwhile.map_err(|error| beyond("what is made beside the weight", &of, &error))?;
            Ok(make(sources)?.counted(taken))
        };
        self.weights.get_or(name, sources, layout, ready, make)
    }
}

/// Returns the error of a weight for which a device has no room, by the budget's own error.
fn beyond(what: &str, name: &str, error: &Error) -> Error {
    let own = Error::new(error.kind(), format!("{what} '{name}' does not fit the device's memory"))
        .with_remedy("divide the model among more devices, or raise the memory limit");
    match error.sizes() {
        Some(sizes) => own.with_sizes(sizes.requested, sizes.available),
        None => own,
    }
}

/// The packed weights of a serial form.
pub(crate) struct Saved {
    bytes: Bytes,
    rows: HashMap<(Box<str>, u128), Row>,
}

/// The place and digest of a weight's bytes.
#[derive(Clone, Copy)]
struct Row {
    offset: usize,
    bytes: usize,
    digest: u128,
}

/// A reader that takes numbers off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.take(8)?.try_into().ok()?)).ok()
    }

    fn digest(&mut self) -> Option<u128> {
        Some(u128::from_le_bytes(self.take(16)?.try_into().ok()?))
    }
}

impl Saved {
    /// Reads the weights of a form; `None` where the form has another key, or is not whole.
    pub(crate) fn read(bytes: Bytes, key: u128) -> Option<Saved> {
        let mut header = Reader(bytes.get(..ALIGNMENT)?);
        if header.take(8)? != MAGIC || header.digest()? != key {
            return None;
        }
        let (count, length, sum) = (header.size()?, header.size()?, header.digest()?);
        let end = ALIGNMENT.checked_add(length)?;
        let table = bytes.get(ALIGNMENT..end)?;
        if digest(table) != sum {
            return None;
        }
        let (mut table, mut rows) = (Reader(table), HashMap::new());
        for _ in 0..count {
            let sources = table.digest()?;
            let (offset, length, sum) = (table.size()?, table.size()?, table.digest()?);
            let letters = u32::from_le_bytes(table.take(4)?.try_into().ok()?);
            let layout = std::str::from_utf8(table.take(letters as usize)?).ok()?;
            if offset < end || !offset.is_multiple_of(ALIGNMENT) || offset.checked_add(length)? > bytes.len() {
                return None;
            }
            rows.insert((layout.into(), sources), Row { offset, bytes: length, digest: sum });
        }
        table.0.is_empty().then_some(Saved { bytes, rows })
    }

    /// Returns the packed form of these constants in a layout of the given number of elements,
    /// where it is there and undamaged.
    fn find(&self, layout: &str, sources: &[Tensor], elements: usize) -> Option<Floats> {
        let row = self.rows.get(&(layout.into(), digest_of(sources)))?;
        let bytes = self.bytes.get(row.offset..row.offset.checked_add(row.bytes)?)?;
        // Kernels read as many elements as they would have packed, without a further check.
        if Some(bytes.len()) != elements.checked_mul(size_of::<f32>()) || digest(bytes) != row.digest {
            return None;
        }
        let mut packed = Floats::zeros(elements).ok()?;
        let elements = bytes.as_chunks().0.iter().map(|element| f32::from_ne_bytes(*element));
        packed.iter_mut().zip(elements).for_each(|(into, element)| *into = element);
        Some(packed)
    }
}

/// Returns the serial form of weights.
///
/// # Errors
/// `Unsupported` where there are no weights, `OutOfMemory`, or the error of a weight that was
/// evicted and cannot be restored.
pub(crate) fn save(key: u128, weights: &[&Packed]) -> Result<Vec<u8>> {
    if weights.is_empty() {
        return Err(Error::unsupported("this executable packs no weights, so a serial form would save no work"));
    }
    let rows: usize = weights.iter().map(|weight| ROW + weight.layout().len()).sum();
    let mut length = (ALIGNMENT + rows).next_multiple_of(ALIGNMENT);
    let mut values: Vec<Arc<Floats>> = Vec::with_capacity(weights.len());
    let mut table = Vec::with_capacity(rows);
    for weight in weights {
        let value = weight.value()?;
        table.extend(digest_of(weight.sources()).to_le_bytes());
        // The digest replaces these zeros when the bytes are there.
        table.extend((length as u64).to_le_bytes());
        table.extend((size_of_val(&value[..]) as u64).to_le_bytes());
        table.extend([0; 16]);
        table.extend((weight.layout().len() as u32).to_le_bytes());
        table.extend(weight.layout().as_bytes());
        length = (length + size_of_val(&value[..])).next_multiple_of(ALIGNMENT);
        values.push(value);
    }
    let mut form = Vec::new();
    form.try_reserve_exact(length).map_err(|error| {
        Error::new(ErrorKind::OutOfMemory, "cannot allocate memory for the serial form of packed weights")
            .with_sizes(length as u64, None)
            .with_remedy("keep no cache of compiled programs, or divide the model among more devices")
            .caused_by(error)
    })?;
    form.resize((ALIGNMENT + rows).next_multiple_of(ALIGNMENT), 0);
    let mut at = 0;
    for (weight, value) in weights.iter().zip(&values) {
        let begin = form.len();
        form.extend(value.iter().flat_map(|element| element.to_ne_bytes()));
        table[at + 32..at + 48].copy_from_slice(&digest(&form[begin..]).to_le_bytes());
        form.resize(form.len().next_multiple_of(ALIGNMENT), 0);
        at += ROW + weight.layout().len();
    }
    form[..8].copy_from_slice(MAGIC);
    form[8..24].copy_from_slice(&key.to_le_bytes());
    form[24..32].copy_from_slice(&(weights.len() as u64).to_le_bytes());
    form[32..40].copy_from_slice(&(table.len() as u64).to_le_bytes());
    form[40..56].copy_from_slice(&digest(&table).to_le_bytes());
    form[ALIGNMENT..ALIGNMENT + table.len()].copy_from_slice(&table);
    Ok(form)
}

#[cfg(test)]
mod tests {
    use hetero_hal::DeviceId;

    use super::*;

    const KEY: u128 = 7;

    fn weights() -> Weights<Floats> {
        Weights::new(DeviceId::new("cpu", 0))
    }

    fn constant(count: usize) -> Tensor {
        Tensor::from_vec(&[count], (0..count).map(|i| i as f32).collect()).unwrap()
    }

    fn doubled(sources: &[Tensor]) -> Result<Floats> {
        let source = sources[0].view::<f32>()?;
        let mut made = Floats::zeros(source.len())?;
        made.iter_mut().zip(&*source).for_each(|(made, x)| *made = 2.0 * x);
        Ok(made)
    }

    fn form() -> Vec<u8> {
        let weights = weights();
        let of = |count: usize| weights.get("w", &[constant(count)], "doubled", doubled).unwrap();
        let (one, other) = (of(5), of(1000));
        save(KEY, &[&one, &other]).unwrap()
    }

    /// Returns what a compilation with the form gets: the weight, and whether it was packed.
    fn compiled(form: Vec<u8>, elements: usize) -> (Vec<f32>, bool) {
        let (weights, saved) = (weights(), Saved::read(form.into(), KEY));
        let account = Account::unlimited();
        let packer = Packer { weights: &weights, saved: saved.as_ref(), account: &account };
        let packed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let noted = packed.clone();
        let make = move |sources: &[Tensor]| {
            noted.store(true, std::sync::atomic::Ordering::Relaxed);
            doubled(sources)
        };
        let got = packer.get("w", &[constant(1000)], ("doubled", elements, 0), make).unwrap().value().unwrap();
        (got.to_vec(), packed.load(std::sync::atomic::Ordering::Relaxed))
    }

    #[test]
    fn what_was_packed_once_is_not_packed_again() {
        let expected = doubled(&[constant(1000)]).unwrap().to_vec();
        assert_eq!(compiled(form(), 1000), (expected.clone(), false));
        assert_eq!(compiled(vec![], 1000), (expected, true));
    }

    #[test]
    fn every_damaged_byte_and_every_length_is_found() {
        let (whole, expected) = (form(), doubled(&[constant(1000)]).unwrap().to_vec());
        let table = 64 + 2 * (ROW + "doubled".len());
        for at in (0..table).chain((table..whole.len()).step_by(97)) {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            assert_eq!(compiled(changed, 1000).0, expected, "byte {at}");
        }
        for length in (0..table).chain((table..whole.len()).step_by(97)) {
            assert_eq!(compiled(whole[..length].to_vec(), 1000).0, expected, "{length} bytes");
        }
    }

    #[test]
    fn a_form_of_another_key_layout_constant_or_length_is_not_used() {
        let saved = Saved::read(form().into(), KEY).unwrap();
        assert!(Saved::read(form().into(), KEY + 1).is_none());
        assert!(saved.find("doubled", &[constant(1000)], 1000).is_some());
        assert!(saved.find("tripled", &[constant(1000)], 1000).is_none());
        assert!(saved.find("doubled", &[constant(1001)], 1001).is_none());
        assert!(saved.find("doubled", &[constant(1000)], 1001).is_none());
        assert!(saved.find("doubled", &[constant(1000)], usize::MAX).is_none());
        // This changes one bit in the middle, which no sample of the constant would see.
        let mut bytes = constant(1000).bytes().to_vec();
        bytes[1999] ^= 1;
        let changed = Tensor::from_bytes(hetero_hal::DType::F32, &[1000], bytes.into()).unwrap();
        assert!(saved.find("doubled", &[changed], 1000).is_none());
    }

    #[test]
    fn hostile_tables_are_turned_down_whatever_their_numbers() {
        // The digest of the table is right in each form, and only the numbers are wrong.
        for place in [16, 24] {
            for number in [u64::MAX, u64::MAX - 63, 1 << 62, 0, 64, 65, 1 << 32] {
                let mut form = form();
                form[64 + place..64 + place + 8].copy_from_slice(&number.to_le_bytes());
                let length = u64::from_le_bytes(form[32..40].try_into().unwrap()) as usize;
                let sum = digest(&form[64..64 + length]).to_le_bytes();
                form[40..56].copy_from_slice(&sum);
                assert_eq!(compiled(form, 1000).0, doubled(&[constant(1000)]).unwrap().to_vec(), "{place} {number}");
            }
        }
        for (place, number) in [(24, u64::MAX), (24, 1 << 40), (32, u64::MAX), (32, u64::MAX - 64)] {
            let mut form = form();
            form[place..place + 8].copy_from_slice(&number.to_le_bytes());
            assert!(Saved::read(form.into(), KEY).is_none());
        }
    }

    #[test]
    fn nothing_packed_has_no_form() {
        assert_eq!(save(KEY, &[]).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
