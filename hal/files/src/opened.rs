//! A file that is open for reading, and was looked at.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use memmap2::MmapMut;

use crate::error::{Error, Result};
use crate::system;

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct Opened {
    pub(crate) file: File,
    bytes: u64,
}

impl Opened {
    /// Opens a file without waiting for anybody.
    /// Links are followed.
    ///
    /// # Errors
    /// `System` where the file cannot be opened, and `NotRegular`.
    pub fn open(path: impl AsRef<Path>) -> Result<Opened> {
        Opened::of(system::open(path.as_ref())?)
    }

    /// Looks at what was opened.
    pub(crate) fn of(file: File) -> Result<Opened> {
        let about = file.metadata()?;
        if about.is_file() {
            Ok(Opened { file, bytes: about.len() })
        } else {
            Err(Error::NotRegular(system::what(about.file_type())))
        }
    }

    /// Returns the bytes that the file had when it was opened.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the numbers that tell the file from all others, by whatever name it was opened; some
    /// systems have none.
    #[must_use]
    pub fn identity(&self) -> Option<(u64, u64)> {
        system::identity_of(&self.file)
    }

    /// Returns the file itself, for readers that do not need all of it at once.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the file itself, for readers that own it.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads the whole file, of at most `most` bytes, into pages of its own.
    ///
    /// # Errors
    /// `TooLarge`, `Changed`, and `System` where there is no memory or the device fails.
    pub fn read(self, most: u64) -> Result<Bytes> {
        if self.bytes > most {
            return Err(Error::TooLarge { found: self.bytes, most });
        }
        self.read_part(0..self.bytes)
    }

    /// Reads a part of the file into memory of its own, where it is aligned as it is in the file:
    /// to pages where it has many bytes, and otherwise to 16 bytes.
    ///
    /// # Errors
    /// `TooLarge` where the part has more bytes than memory could, `PastEnd` where the file has no
    /// such part, `Changed` where its length is another one by now, and `System` where there is no
    /// memory or the device fails.
    pub fn read_part(&self, part: Range<u64>) -> Result<Bytes> {
        let end = self.bytes;
        if part.start > part.end || part.end > end {
            return Err(Error::PastEnd { part, bytes: end });
        }
        let bytes = part.end - part.start;
        let paged = bytes >= OWN_PAGES;
        let lead = part.start % if paged { PAGE } else { ALIGNMENT };
        let length = usize::try_from(bytes.saturating_add(lead))
            .map_err(|_| Error::TooLarge { found: bytes, most: usize::MAX as u64 })?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(part.start - lead))?;
        let (content, filled) = if paged {
            // Pages of the system's, unlike those of an allocator, are aligned as the file's own
            // would be, go back when they are dropped, and are an error where there are none.
            let mut pages = MmapMut::map_anon(length)?;
            large(&pages);
            let filled = fill(file, &mut pages[..])?;
            (Bytes::from_owner(pages.make_read_only()?), filled)
        } else {
            let mut content = vec![0; length];
            let filled = fill(file, &mut content)?;
            (Bytes::from(content), filled)
        };
        let after = file.metadata()?.len();
        // Some files have bytes beyond the length that the system tells, such as those of `/proc`.
        let goes_on = part.end == end && fill(file, &mut [0])? > 0;
        if filled < length || after != end || goes_on {
            // A length that went back to what it was would make the message a riddle.
            let after = if after == end { part.start - lead + filled as u64 } else { after };
            return Err(Error::Changed { before: end, after });
        }
        Ok(content.slice(lead as usize..))
    }
}

/// The bytes from which a part has pages of its own; less than that wastes a part of a page, and a
/// process may not have very many mappings.
const OWN_PAGES: u64 = 64 << 10;

/// The bytes of a page.
const PAGE: u64 = 4096;

/// The bytes that an allocator aligns to.
const ALIGNMENT: u64 = 16;

/// Asks for large pages where there are many, because to fill them takes a third of the time.
/// The system need not give any.
fn large(pages: &MmapMut) {
    /// The bytes beyond which the rest of a large page is a small part.
    const MANY: usize = 32 << 20;
    #[cfg(target_os = "linux")]
    if pages.len() >= MANY {
        let _ = pages.advise(memmap2::Advice::HugePage);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (pages, MANY);
}

/// Reads until the memory is full or the file ends, and returns the bytes that were read.
fn fill(mut file: &File, memory: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < memory.len() {
        match file.read(&mut memory[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// Reads a stream to its end, which has to come within `most` bytes.
pub(crate) fn drain(stream: impl Read, most: u64) -> Result<Bytes> {
    let mut bytes = Vec::new();
    stream.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        found if found > most => Err(Error::TooLarge { found, most }),
        _ => Ok(bytes.into()),
    }
}
