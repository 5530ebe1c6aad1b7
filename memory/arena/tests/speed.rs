//! A measurement: `cargo test --release -p hetero-arena --test speed -- --ignored --nocapture`.

use std::time::Instant;

use hetero_arena::{Request, plan, validate};

/// Numbers without a pattern, the same in each run.
fn noise(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
#[ignore = "a measurement, of use in release only"]
fn ten_thousand_requests_take_well_under_a_second() {
    // Tensors that live for at most so many steps, up to the case in which nearly all are alive at once.
    for longest in [4, 64, 1024, 100_000] {
        let mut state = 1;
        let requests: Vec<Request> = (0..10_000)
            .map(|step| Request::new(1 + noise(&mut state) % 1_000_000, step, step + 1 + noise(&mut state) % longest))
            .collect();
        let before = Instant::now();
        let layout = plan(&requests).unwrap();
        let planning = before.elapsed();
        validate(&requests, &layout).unwrap();
        let validating = before.elapsed() - planning;
        let over = 100.0 * (layout.bytes as f64 / layout.peak_live as f64 - 1.0);
        println!(
            "lives of up to {longest:6} steps: {planning:?} to plan, {validating:?} to validate, {over:.2} % above the lower bound"
        );
        assert!(planning.as_secs_f64() < 1.0, "{planning:?}");
    }
}
