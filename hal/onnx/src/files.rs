//! The files of a model: its own, and external data beside it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use hetero_files::{Folder, Opened};
use hetero_hal::Allowance;
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::proto::tensor_proto::DataLocation;
use crate::proto::{AttributeProto, GraphProto, SparseTensorProto, TensorProto};

/// The most bytes of a message of protobuf, by its own rules.
const LARGEST_MESSAGE: u64 = i32::MAX as u64;

/// How the bytes of a model's files come into memory.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Whether files are mapped instead of being read into memory.
    ///
    /// A mapped model is there at once, its weights take memory as they are used, and the system
    /// can take that memory back, which counts where models are large.
    /// But the files must then stay as they are while any tensor of the model lives: where a file
    /// becomes shorter, the system ends the process (`SIGBUS`), and where its content changes, so
    /// do the weights, which safe Rust takes for constant.
    /// Use this only for files that nobody else may write.
    pub map: bool,
    /// Whether the bytes of files that are read into memory count against the allowance: of
    /// external data, the parts that tensors name.
    /// Where they do not, a model may have files of any size.
    pub count_files: bool,
    /// The memory that the files' content may take besides the files, and the time for all of it:
    /// decoded messages, functions that are expanded, and sparse tensors in their dense form.
    pub allowance: Allowance,
}

/// The files of one model, each byte loaded once, none outside the model's folder.
pub(crate) struct Files {
    /// The model's folder; a model that came from memory has none and may not name files.
    folder: Option<Folder>,
    map: bool,
    count_files: bool,
    /// What is left for all that takes memory.
    pub(crate) allowance: Allowance,
    /// The parts that the model's tensors name of each file, by the name that they give it.
    named: HashMap<String, Vec<Range<u64>>>,
    /// The files by what tells them apart: their identity, or else their name.
    sources: HashMap<(Option<(u64, u64)>, String), Source>,
    /// The file that was opened last, by the name that a tensor gave it: mostly the next one's too.
    last: Option<(String, Opened)>,
}

impl Files {
    /// Returns the files of a model that came from memory: none.
    pub(crate) fn none(allowance: Allowance) -> Self {
        Files::new(None, ReadOptions { allowance, ..ReadOptions::default() })
    }

    fn new(folder: Option<Folder>, options: ReadOptions) -> Self {
        let ReadOptions { map, count_files, allowance } = options;
        Files { folder, map, count_files, allowance, named: HashMap::new(), sources: HashMap::new(), last: None }
    }

    /// Tells whether files are mapped.
    pub(crate) fn are_mapped(&self) -> bool {
        self.map
    }

    /// Opens a file that holds one message, and returns its bytes and the files beside it.
    pub(crate) fn open(path: &Path, options: ReadOptions) -> Result<(Bytes, Self)> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let (folder, file) = Folder::around(path).map_err(failed)?;
        let mut files = Files::new(Some(folder), options);
        let bytes = files.message(file).map_err(failed)?;
        Ok((bytes, files))
    }

    /// Returns all bytes of a file that holds one message.
    fn message(&mut self, file: Opened) -> hetero_files::Result<Bytes> {
        if self.map {
            return map(&file, LARGEST_MESSAGE);
        }
        if !self.count_files {
            return file.read(LARGEST_MESSAGE);
        }
        let bytes = file.read(LARGEST_MESSAGE.min(self.allowance.bytes as u64))?;
        self.allowance.bytes = self.allowance.bytes.saturating_sub(bytes.len());
        Ok(bytes)
    }

    /// Notes which parts of files the tensors of a graph name: neighbours are read together.
    pub(crate) fn expect(&mut self, graph: &GraphProto) {
        if self.folder.is_some() && !self.map {
            self.expect_graph(graph);
            self.named.values_mut().for_each(join);
        }
    }

    fn expect_graph(&mut self, graph: &GraphProto) {
        graph.initializer.iter().for_each(|tensor| self.expect_tensor(tensor));
        graph.sparse_initializer.iter().for_each(|sparse| self.expect_sparse(sparse));
        for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
            let AttributeProto { t, tensors, sparse_tensor, sparse_tensors, g, graphs, .. } = attribute;
            t.iter().chain(tensors).for_each(|tensor| self.expect_tensor(tensor));
            sparse_tensor.iter().chain(sparse_tensors).for_each(|sparse| self.expect_sparse(sparse));
            g.iter().chain(graphs).for_each(|graph| self.expect_graph(graph));
        }
    }

    fn expect_sparse(&mut self, sparse: &SparseTensorProto) {
        sparse.values.iter().chain(&sparse.indices).for_each(|tensor| self.expect_tensor(tensor));
    }

    fn expect_tensor(&mut self, tensor: &TensorProto) {
        if tensor.data_location() != DataLocation::External {
            return;
        }
        // What is wrong with a place is told when the tensor is read.
        let Ok(place) = Place::of(tensor) else { return };
        let part = place.part(u64::MAX);
        match self.named.get_mut(place.location) {
            Some(parts) => parts.push(part),
            None => {
                self.named.insert(place.location.to_owned(), vec![part]);
            }
        }
    }

    /// Returns the external data of a tensor, which takes so many bytes where that is known.
    pub(crate) fn external(&mut self, tensor: &TensorProto, bytes: Option<usize>) -> Result<Bytes> {
        let fail = |reason: String| Error::ExternalData { tensor: tensor.name().to_owned(), reason };
        let place = Place::of(tensor).map_err(fail)?;
        let location = place.location;
        let file = self.beside(location).map_err(fail)?;
        let part = place.part(file.bytes());
        if part.end > file.bytes() {
            let (Range { start, end }, bytes) = (part, file.bytes());
            return Err(fail(format!(
                "bytes {start} to {end} reach past the end of '{location}', which has {bytes} bytes"
            )));
        }
        // What is not the tensor's is not read, however long it is.
        if let Some(bytes) = bytes.filter(|&bytes| part.end - part.start != bytes as u64) {
            let found = part.end - part.start;
            return Err(fail(format!("it takes {bytes} bytes, not the {found} that it names in '{location}'")));
        }
        // Many spellings lead to one file, and each is looked up by what was opened.
        let identity = file.identity();
        let key = (identity, if identity.is_some() { String::new() } else { location.to_owned() });
        let source = self.sources.entry(key).or_default();
        let content = match source.find(&part) {
            Some(found) => found,
            None => {
                let unreadable = |error| fail(format!("cannot read '{location}': {error}"));
                let near = if self.map {
                    0..file.bytes()
                } else {
                    let parts = self.named.get(location).map_or(&[][..], Vec::as_slice);
                    source.near(&part, parts, file.bytes())
                };
                if self.count_files && !self.map {
                    let bytes = usize::try_from(near.end - near.start).unwrap_or(usize::MAX);
                    let left = self.allowance.less(bytes);
                    self.allowance = left.map_err(|error| error.at(format!("external data in '{location}'")))?;
                }
                let start = near.start;
                let bytes = if self.map { map(&file, u64::MAX) } else { file.read_part(near) };
                source.keep(start, bytes.map_err(unreadable)?);
                source.find(&part).ok_or_else(|| fail(format!("'{location}' was read in part")))?
            }
        };
        self.last = Some((location.to_owned(), file));
        Ok(content)
    }

    /// Opens a file in the model's folder, or returns a sentence that says what is wrong.
    fn beside(&mut self, location: &str) -> Result<Opened, String> {
        if let Some((_, file)) = self.last.take_if(|(name, _)| name == location) {
            return Ok(file);
        }
        let Some(folder) = &self.folder else {
            return Err(format!("'{location}' cannot be found for a model that was read from memory"));
        };
        folder.open(location).map_err(|error| match error {
            hetero_files::Error::Outside => format!("'{location}' lies outside the model's folder"),
            error => format!("cannot open '{location}' in the model's folder: {error}"),
        })
    }
}

/// What was loaded of one file.
#[derive(Default)]
struct Source {
    /// The parts by their first byte; none lies in another.
    parts: BTreeMap<u64, Bytes>,
    /// The bytes that were loaded.
    bytes: u64,
}

impl Source {
    fn find(&self, part: &Range<u64>) -> Option<Bytes> {
        if part.is_empty() {
            return Some(Bytes::new());
        }
        let (start, bytes) = self.parts.range(..=part.start).next_back()?;
        let within = usize::try_from(part.start - start).ok()?..usize::try_from(part.end - start).ok()?;
        (within.end <= bytes.len()).then(|| bytes.slice(within))
    }

    fn keep(&mut self, start: u64, bytes: Bytes) {
        let length = bytes.len() as u64;
        let within = self.parts.range(start..).take_while(|(at, part)| *at - start + part.len() as u64 <= length);
        for at in within.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.parts.remove(&at);
        }
        self.bytes += length;
        self.parts.insert(start, bytes);
    }

    /// Returns what is read of a file of so many bytes where a part is missing: what tensors name
    /// around it.
    fn near(&self, part: &Range<u64>, named: &[Range<u64>], bytes: u64) -> Range<u64> {
        let after = named.partition_point(|named| named.start <= part.start);
        let around = after.checked_sub(1).and_then(|before| named.get(before)).filter(|named| named.end >= part.end);
        let near = around.map_or(part.clone(), |named| named.start..named.end.min(bytes));
        // Names of one file may overlap, and then its bytes are held twice at most.
        if self.bytes + (near.end - near.start) > bytes { 0..bytes } else { near }
    }
}

/// Where the content of a tensor lies outside the model's own file.
struct Place<'a> {
    location: &'a str,
    offset: u64,
    /// Its bytes; none where it takes the rest of the file.
    length: Option<u64>,
}

impl<'a> Place<'a> {
    /// Reads what a tensor says, or returns a sentence that says what is wrong with it.
    fn of(tensor: &'a TensorProto) -> Result<Self, String> {
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
        let number = |key: &str| {
            let number = |text: &str| text.parse().map_err(|_| format!("its {key} '{text}' is not a size"));
            entry(key).map(number).transpose()
        };
        let location = entry("location").ok_or("it names no location")?;
        Ok(Place { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }

    /// Returns the part of a file of so many bytes, which may reach past the file's end.
    fn part(&self, bytes: u64) -> Range<u64> {
        let end = self.length.map_or(bytes.max(self.offset), |length| self.offset.saturating_add(length));
        self.offset..end
    }
}

/// The bytes between what tensors name that are read with them, as a share of these: writers align
/// tensors, and many small reads take longer than a few bytes more.
const BETWEEN: u64 = 16;

/// Puts parts in order, and joins those that overlap or have little between them.
fn join(parts: &mut Vec<Range<u64>>) {
    parts.sort_unstable_by_key(|part| part.start);
    let mut between = 0;
    parts.dedup_by(|part, last| {
        let gap = part.start.saturating_sub(last.end);
        let near = between + gap <= (last.end - last.start) / BETWEEN;
        between = if near { between + gap } else { 0 };
        if near {
            last.end = last.end.max(part.end);
        }
        near
    });
}

/// Maps a whole file read-only.
fn map(file: &Opened, most: u64) -> hetero_files::Result<Bytes> {
    match file.bytes() {
        // Nothing cannot be mapped.
        0 => return Ok(Bytes::new()),
        found if found > most => return Err(hetero_files::Error::TooLarge { found, most }),
        _ => {}
    }
    // SAFETY: the mapping is private and read-only, and the file was looked at.
    // Only a process that shortens or rewrites the file while it is mapped breaks it, and whoever
    // sets `ReadOptions::map` has read that it must not.
    let map = unsafe { Mmap::map(file.file()) }?;
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn neighbours_are_joined_and_little_lies_between_them() {
        let joined = |parts: &[(u64, u64)]| {
            let mut parts: Vec<_> = parts.iter().map(|&(start, end)| start..end).collect();
            join(&mut parts);
            parts.into_iter().map(|part| (part.start, part.end)).collect::<Vec<_>>()
        };
        assert_eq!(joined(&[]), []);
        assert_eq!(joined(&[(8, 16), (0, 8), (0, 4), (20, 24)]), [(0, 16), (20, 24)]);
        assert_eq!(joined(&[(0, 1600), (1650, 3200), (3300, 4000), (4101, 4200)]), [(0, 4000), (4101, 4200)]);
        assert_eq!(joined(&[(5, u64::MAX), (100, 200)]), [(5, u64::MAX)]);
        // A gap that is little beside all before it, while all gaps together are not.
        let many: Vec<(u64, u64)> = (0..100).map(|number| (number * 100, number * 100 + 90)).collect();
        let read: u64 = joined(&many).iter().map(|(start, end)| end - start).sum();
        assert!(read <= 9000 + 9000 / 16 + 90, "{read}");
    }
}
