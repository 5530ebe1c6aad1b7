//! Shares of a whole, by weight.

/// Divides `total` things by weights: each weight gets its exact share, rounded down or up, and the
/// shares add up to `total`.
/// The largest remainders are rounded up, among equal ones the first (Hamilton's method; Balinski
/// and Young, Fair Representation, 1982).
/// A weight that is not a positive finite number counts as zero; where all weights count as zero,
/// the first share gets everything.
#[must_use]
pub fn apportion(total: usize, weights: &[f64]) -> Vec<usize> {
    let usable = |weight: f64| if weight.is_finite() && weight > 0.0 { weight } else { 0.0 };
    let largest = weights.iter().copied().map(usable).fold(0.0, f64::max);
    if largest == 0.0 {
        let mut shares = vec![0; weights.len()];
        shares.iter_mut().take(1).for_each(|first| *first = total);
        return shares;
    }
    // Each weight is divided first, so that no sum overflows.
    let weights: Vec<f64> = weights.iter().map(|&weight| usable(weight) / largest).collect();
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| total as f64 * (weight / sum)).collect();
    let mut shares: Vec<usize> = exact.iter().map(|share| (share.floor() as usize).min(total)).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&index| weights[index] > 0.0).collect();
    order.sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())).then(a.cmp(&b)));
    let given: usize = shares.iter().sum();
    // Rounding may have given away more than there is; the excess is taken from the shares that
    // were rounded up least.
    let (missing, mut excess) = (total.saturating_sub(given), given.saturating_sub(total));
    for &index in order.iter().cycle().take(missing) {
        shares[index] += 1;
    }
    for &index in order.iter().rev() {
        let taken = excess.min(shares[index]);
        shares[index] -= taken;
        excess -= taken;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn remainders_decide() {
        assert_eq!(apportion(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
        assert_eq!(apportion(128, &[3.0, 1.0]), [96, 32]);
        assert_eq!(apportion(7, &[0.0, f64::NAN, -1.0]), [7, 0, 0]);
        assert_eq!(apportion(7, &[f64::MAX, f64::MAX]), [4, 3]);
        assert_eq!(apportion(1, &[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_keep_quota(total in 0_usize..100_000, weights in prop::collection::vec(0.0..1e6, 1..9)) {
            let shares = apportion(total, &weights);
            prop_assert_eq!(shares.iter().sum::<usize>(), total);
            let sum: f64 = weights.iter().sum();
            if sum > 0.0 {
                for (share, weight) in shares.iter().zip(&weights) {
                    let exact = total as f64 * weight / sum;
                    prop_assert!((*share as f64 - exact).abs() < 1.0 + 1e-6, "{share} of {exact}");
                    prop_assert!(*weight > 0.0 || *share == 0);
                }
            }
        }
    }
}
