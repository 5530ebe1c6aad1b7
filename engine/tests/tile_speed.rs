//! Two synthetic devices of equal speed do the tiles of a product in little more than half the time
//! of one.
//! The test is alone in its process, as it takes time.

#![allow(clippy::unwrap_used)]

mod synthetic;

use std::time::{Duration, Instant};

use synthetic::{Speed, engine, product, tensor};

#[test]
fn two_of_equal_speed_take_little_more_than_half() {
    let time = |speeds: &[Speed]| {
        let engine = engine(speeds, 16);
        let session = engine.session(&engine.analyze_model(&product([128, 32, 128], None)).unwrap()).unwrap();
        let inputs = [("a", tensor(&[128, 32], 0.1)), ("b", tensor(&[32, 128], 0.2))];
        session.run(&inputs).unwrap();
        let mut runs: Vec<Duration> = (0..3)
            .map(|_| {
                let began = Instant::now();
                session.run(&inputs).unwrap();
                began.elapsed()
            })
            .collect();
        runs.sort_unstable();
        runs[1]
    };
    let (one, two) = (time(&[Speed::ms(12)]), time(&[Speed::ms(12), Speed::ms(12)]));
    let ratio = one.as_secs_f64() / two.as_secs_f64();
    assert!(ratio >= 1.9, "{one:?} on one, {two:?} on two: {ratio:.2}");
}
