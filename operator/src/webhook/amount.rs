//! Amounts of resources, as Kubernetes writes them: `100m`, `1.5`, `64Mi`, `1e3`.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// An amount: cores, or bytes. Counted in thousandths, as finely as an API server distinguishes what containers ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

/// Thousandths in one.
const ONE: i128 = 1_000;
/// More than any cluster has: above it everything is the same.
const MOST: i128 = i64::MAX as i128 * ONE;

impl Amount {
    /// So many cores, or bytes.
    pub const fn of(whole: u64) -> Self {
        Self(whole as i128 * ONE)
    }

    /// So many thousandths of a core.
    pub const fn milli(thousandths: u64) -> Self {
        Self(thousandths as i128)
    }

    /// Of its text, rounded up to thousandths. `None`: it is none, or less than nothing.
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != '+').unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(digits)?;
        let number = number.strip_prefix('+').unwrap_or(number);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let plain = |text: &str| text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && part.is_empty()) || !plain(whole) || !plain(part) {
            return None;
        }
        // `part` as nine digits, of which none that counts is beyond.
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let billionths: i128 = format!("{part:0<9}").get(..9)?.parse().ok()?;
        let scaled = (whole.min(MOST) * 1_000_000_000 + billionths).checked_mul(ONE)?;
        let amount = match factor(suffix)? {
            Factor::Times(factor) => {
                scaled.checked_mul(factor).unwrap_or(i128::MAX) / 1_000_000_000 + i128::from(scaled % 1_000_000_000 != 0)
            }
            Factor::By(divisor) => {
                let divisor = divisor.checked_mul(1_000_000_000)?;
                scaled / divisor + i128::from(scaled % divisor != 0)
            }
        };
        Some(Self(amount.min(MOST)))
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self((self.0 + other.0).min(MOST))
    }

    /// What is left of it; nothing, if the other is more.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }

    /// The least of which this is at most `ratio` times as much.
    #[must_use]
    pub fn over(self, ratio: Self) -> Self {
        let ratio = ratio.0.max(1);
        let whole = self.0 * ONE;
        Self(whole / ratio + i128::from(whole % ratio != 0))
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// What a suffix does to the number before it.
enum Factor {
    Times(i128),
    By(i128),
}

fn factor(suffix: &str) -> Option<Factor> {
    const KI: i128 = 1_024;
    Some(match suffix {
        "" => Factor::Times(1),
        "n" => Factor::By(1_000_000_000),
        "u" => Factor::By(1_000_000),
        "m" => Factor::By(1_000),
        "k" => Factor::Times(1_000),
        "M" => Factor::Times(1_000_000),
        "G" => Factor::Times(1_000_000_000),
        "T" => Factor::Times(1_000_000_000_000),
        "P" => Factor::Times(1_000_000_000_000_000),
        "E" => Factor::Times(1_000_000_000_000_000_000),
        "Ki" => Factor::Times(KI),
        "Mi" => Factor::Times(KI.pow(2)),
        "Gi" => Factor::Times(KI.pow(3)),
        "Ti" => Factor::Times(KI.pow(4)),
        "Pi" => Factor::Times(KI.pow(5)),
        "Ei" => Factor::Times(KI.pow(6)),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { Factor::By(factor) } else { Factor::Times(factor) }
        }
    })
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, i128); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
        if self.0 % ONE != 0 {
            return write!(f, "{}m", self.0);
        }
        let whole = self.0 / ONE;
        match UNITS.iter().find(|(_, unit)| whole > 0 && whole % unit == 0) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", whole / unit),
            None => write!(f, "{whole}"),
        }
    }
}

impl From<Amount> for Quantity {
    fn from(amount: Amount) -> Self {
        Self(amount.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them_and_shown_so_that_they_are_the_same() {
        let mi = 1_048_576;
        for (text, amount, shown) in [
            ("100m", Amount::milli(100), "100m"),
            ("0.1", Amount::milli(100), "100m"),
            (".5", Amount::milli(500), "500m"),
            ("1", Amount::of(1), "1"),
            ("2.5", Amount::milli(2_500), "2500m"),
            ("64Mi", Amount::of(64 * mi), "64Mi"),
            ("1.5Gi", Amount::of(1_536 * mi), "1536Mi"),
            ("128974848", Amount::of(128_974_848), "123Mi"),
            ("129e6", Amount::of(129_000_000), "129000000"),
            ("129M", Amount::of(129_000_000), "129000000"),
            ("5E-1", Amount::milli(500), "500m"),
            ("100n", Amount::milli(1), "1m"),
            ("0", Amount::default(), "0"),
        ] {
            let read = Amount::read(text);
            assert_eq!(read, Some(amount), "{text}");
            assert_eq!(read.unwrap().to_string(), shown, "{text}");
            assert_eq!(Amount::read(shown), read, "{text}");
        }
        for text in ["", "m", "-1", "1x", "1 Mi", "1.2.3", "Mi", ".", "1e", "1e99999999999", "٣"] {
            assert_eq!(Amount::read(text), None, "{text:?}");
        }
        assert_eq!(Amount::read("99999999999999999999E"), Some(Amount(MOST)), "whatever it is, there is not so much");
        assert_eq!(Amount::of(128).over(Amount::of(4)), Amount::of(32));
        assert_eq!(Amount::milli(200).over(Amount::milli(2_500)), Amount::milli(80));
        assert_eq!(Amount::milli(100).over(Amount::of(3)), Amount::milli(34), "never more than the ratio");
        assert_eq!(Amount::of(1).minus(Amount::of(2)), Amount::default());
    }
}
