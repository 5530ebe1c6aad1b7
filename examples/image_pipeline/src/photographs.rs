//! Decoding of files to frames of one size, on threads of the host.

use std::path::Path;
use std::str::FromStr;

use hetero::Tensor;
use image::ImageReader;
use image::imageops::thumbnail;

use crate::Result;

/// The size in pixels that is cut out of a photograph, so that all inputs of a stream have one
/// shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl FromStr for Frame {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        match sizes {
            Some((width, height)) if (1..=4096).contains(&width) && (1..=4096).contains(&height) => {
                Ok(Frame { width, height })
            }
            _ => Err(format!("'{text}' is no frame such as 400x300, of 1 to 4096 pixels each way")),
        }
    }
}

impl Frame {
    /// Returns the shape of a frame's tensor: batch, rows, columns, red-green-blue.
    pub(crate) fn shape(self) -> [usize; 4] {
        [1, self.height as usize, self.width as usize, 3]
    }
}

/// Decodes a file, and cuts the frame out of its middle.
/// Where a photograph is several times as large as the frame, pixels are averaged first, as cameras
/// do, by the largest whole number that leaves enough of them.
///
/// # Errors
/// An error where the file is no image, or its image is smaller than the frame.
pub(crate) fn decode(path: &Path, frame: Frame) -> Result<Tensor> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(|error| failed(&error))?;
    let image = reader.decode().map_err(|error| failed(&error))?.into_rgb8();
    let (width, height) = image.dimensions();
    let factor = (width / frame.width).min(height / frame.height);
    if factor == 0 {
        let Frame { width: wanted, height: rows } = frame;
        return Err(failed(&format!(
            "{width}x{height} pixels are fewer than {wanted}x{rows}; choose a smaller --frame"
        ))
        .into());
    }
    let (wide, high) = (frame.width * factor, frame.height * factor);
    let middle = image::imageops::crop_imm(&image, (width - wide) / 2, (height - high) / 2, wide, high).to_image();
    let pixels = if factor == 1 { middle } else { thumbnail(&middle, frame.width, frame.height) };
    Ok(Tensor::from_vec(&frame.shape(), pixels.into_raw())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in the system's temporary folder, which is removed in the end.
    struct File(std::path::PathBuf);

    impl File {
        fn image(name: &str, width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Self {
            let path = std::env::temp_dir().join(format!("hetero-{}-{name}.png", std::process::id()));
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y))).save(&path).unwrap();
            File(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_frame_is_the_middle() {
        let file = File::image("middle", 5, 4, |x, y| [x as u8, y as u8, 7]);
        let frame = decode(&file.0, "3x2".parse().unwrap()).unwrap();
        assert_eq!(frame.shape(), [1, 2, 3, 3]);
        assert_eq!(frame.bytes()[..], [1, 1, 7, 2, 1, 7, 3, 1, 7, 1, 2, 7, 2, 2, 7, 3, 2, 7]);
    }

    #[test]
    fn pixels_of_large_photographs_are_averaged() {
        // The image has 2 x 2 pixels of one colour each, and its left half is dark.
        let file = File::image("large", 8, 4, |x, _| if x < 4 { [10, 20, 30] } else { [50, 60, 70] });
        let frame = decode(&file.0, "4x2".parse().unwrap()).unwrap();
        let row = [10, 20, 30, 10, 20, 30, 50, 60, 70, 50, 60, 70];
        assert_eq!(frame.bytes()[..], [row, row].concat());
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let file = File::image("small", 4, 4, |_, _| [0; 3]);
        let error = decode(&file.0, "5x2".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("4x4 pixels are fewer than 5x2"), "{error}");
        assert!("0x3".parse::<Frame>().is_err() && "3".parse::<Frame>().is_err() && "3x9999".parse::<Frame>().is_err());
    }
}
