//! Medians and quantiles of some figures.

/// Returns the median of some figures; not a number, where there are none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    Quantiles::of(figures).at(0.5).unwrap_or(f64::NAN)
}

/// Figures in order.
#[derive(Clone, Debug, Default)]
pub struct Quantiles(Vec<f64>);

impl Quantiles {
    /// Sorts some figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Quantiles {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Quantiles(figures)
    }

    /// Returns the figure that this share of all does not exceed, or `None` where there are none.
    pub fn at(&self, share: f64) -> Option<f64> {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied()
    }

    /// Returns the least figure.
    pub fn least(&self) -> Option<f64> {
        self.0.first().copied()
    }

    /// Returns the greatest figure.
    pub fn most(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// Returns the number of figures.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_figures_that_occur() {
        let quantiles = Quantiles::of([4.0, 1.0, 3.0, 2.0]);
        let at = [0.0, 0.25, 0.5, 0.75, 0.99, 1.0].map(|share| quantiles.at(share).unwrap());
        assert_eq!(at, [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]);
        assert_eq!(
            (quantiles.least(), quantiles.most(), quantiles.len()),
            (Some(1.0), Some(4.0), 4)
        );
        assert_eq!(Quantiles::default().at(0.5), None);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert!(median([]).is_nan());
    }
}
