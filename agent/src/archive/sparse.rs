//! Files with holes, in tar's PAX format 1.0: a map of the data before the data, so that a hole costs nothing.
//!
//! <https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html>

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

const BLOCK: usize = 512;
/// A smaller file is not worth a map.
const WORTH_BYTES: u64 = 64 << 10;
/// A file in more pieces than this is told as one: a map is held in memory as a whole, here and by who reads it.
const PIECES_MAX: usize = 4096;
/// What others may write: 16 MiB of map.
const PIECES_READ_MAX: u64 = 1 << 20;

/// Where a file has data: offsets and lengths in order.
pub struct SparseMap {
    size: u64,
    pieces: Vec<(u64, u64)>,
}

impl SparseMap {
    /// The map of a file that has holes worth telling.
    pub fn of(file: &File, metadata: &Metadata) -> io::Result<Option<SparseMap>> {
        let size = metadata.size();
        if size < WORTH_BYTES || metadata.blocks() * BLOCK as u64 >= size {
            return Ok(None);
        }
        let mut pieces = Vec::new();
        let mut end = 0;
        while end < size {
            let start = match rustix::fs::seek(file, SeekFrom::Data(end)) {
                Ok(start) if start < size => start,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(_) => return Ok(None), // its file system knows no holes
            };
            end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
            pieces.push((start, end - start));
            if pieces.len() > PIECES_MAX {
                rustix::fs::seek(file, SeekFrom::Start(0))?;
                return Ok(None);
            }
        }
        // Ends with an empty piece at the file's end, as GNU tar's maps do.
        pieces.push((size, 0));
        Ok(Some(SparseMap { size, pieces }))
    }

    /// What is before the data, in whole blocks, and how much data there is.
    pub fn head(&self) -> (Vec<u8>, u64) {
        let mut text = format!("{}\n", self.pieces.len());
        for (offset, length) in &self.pieces {
            text += &format!("{offset}\n{length}\n");
        }
        let mut head = text.into_bytes();
        head.resize(head.len().next_multiple_of(BLOCK), 0);
        (head, self.pieces.iter().map(|(_, length)| length).sum())
    }

    pub fn records(&self, name: &[u8]) -> Vec<(String, Vec<u8>)> {
        vec![
            ("GNU.sparse.major".into(), b"1".to_vec()),
            ("GNU.sparse.minor".into(), b"0".to_vec()),
            ("GNU.sparse.name".into(), name.to_vec()),
            ("GNU.sparse.realsize".into(), self.size.to_string().into_bytes()),
        ]
    }

    /// Reads a map off the beginning of an entry of a file of `size` bytes; what follows in it is the data.
    pub fn read(size: u64, entry: &mut impl Read) -> io::Result<SparseMap> {
        let mut lines = Lines { entry, block: Vec::new() };
        let count = lines.number()?;
        if count > PIECES_READ_MAX {
            return Err(damaged());
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            let (offset, length) = (lines.number()?, lines.number()?);
            if offset.checked_add(length).is_none_or(|end| end > size) {
                return Err(damaged());
            }
            pieces.push((offset, length));
        }
        Ok(SparseMap { size, pieces })
    }

    /// Writes the pieces that follow in `entry` into `file`, which is empty.
    pub fn restore(&self, entry: &mut impl Read, file: &File) -> io::Result<()> {
        file.set_len(self.size)?;
        let mut buffer = vec![0; 64 << 10];
        for &(mut offset, length) in &self.pieces {
            let end = offset + length;
            while offset < end {
                let wanted = buffer.len().min((end - offset) as usize);
                let count = entry.read(buffer.get_mut(..wanted).unwrap_or_default())?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                file.write_all_at(buffer.get(..count).unwrap_or_default(), offset)?;
                offset += count as u64;
            }
        }
        Ok(())
    }
}

/// The numbers of a map, a line each, read in whole blocks.
struct Lines<'a, R: Read> {
    entry: &'a mut R,
    /// What is left of the last block, its first byte last.
    block: Vec<u8>,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut number: u64 = 0;
        for digits in 0.. {
            if self.block.is_empty() {
                self.block.resize(BLOCK, 0);
                self.entry.read_exact(&mut self.block)?;
                self.block.reverse();
            }
            match self.block.pop() {
                Some(b'\n') if digits > 0 => return Ok(number),
                Some(digit @ b'0'..=b'9') => {
                    let more = number.checked_mul(10).and_then(|number| number.checked_add(u64::from(digit - b'0')));
                    number = more.ok_or_else(damaged)?;
                }
                _ => break,
            }
        }
        Err(damaged())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a sparse file's map is damaged")
}

/// The data of a file by its map; what is gone meanwhile is told as zeros.
pub struct Data<'a> {
    file: &'a File,
    pieces: Vec<(u64, u64)>,
}

impl Data<'_> {
    pub fn new<'a>(file: &'a File, map: &SparseMap) -> Data<'a> {
        Data { file, pieces: map.pieces.iter().rev().copied().filter(|(_, length)| *length > 0).collect() }
    }
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((offset, length)) = self.pieces.pop() else { return Ok(0) };
        let wanted = buffer.len().min(length as usize);
        let space = buffer.get_mut(..wanted).unwrap_or_default();
        let mut count = self.file.read_at(space, offset)?;
        if count == 0 {
            space.fill(0);
            count = wanted;
        }
        if (count as u64) < length {
            self.pieces.push((offset + count as u64, length - count as u64));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_comes_back_as_it_went() {
        let map = SparseMap { size: 1 << 20, pieces: (0..100).map(|number| (number * 8192, 4096)).collect() };
        let (head, data_bytes) = map.head();
        assert_eq!((head.len() % BLOCK, data_bytes), (0, 100 * 4096));
        let mut entry = head.as_slice();
        assert_eq!(SparseMap::read(1 << 20, &mut entry).unwrap().pieces, map.pieces);
        assert!(entry.is_empty());
    }

    #[test]
    fn a_map_that_leads_beyond_the_file_is_refused() {
        let mut text = b"1\n100\n50\n".to_vec();
        text.resize(BLOCK, 0);
        assert!(SparseMap::read(149, &mut text.as_slice()).is_err());
        assert!(SparseMap::read(150, &mut text.as_slice()).is_ok());
        text[0] = b'x';
        assert!(SparseMap::read(150, &mut text.as_slice()).is_err());
    }
}
