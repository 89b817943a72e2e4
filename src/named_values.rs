//! Settings that are one of a few values, each with a name.
//!
//! [`named_values!`] lists the names of a type once. The parser of its flag, its `FromStr` and its
//! `Display` follow from the list.

/// A value that has a name on the command line and in settings.
pub trait NamedValue: Copy + Send + Sync + 'static {
    /// Every value with its name, in the order in which help lists them.
    const NAMES: &'static [(&'static str, Self)];
}

/// Implements [`NamedValue`], `Display` and `FromStr` for an enum, and its constant `ALL` and its
/// method `name`. The flag is named in the error of a name that is not known.
macro_rules! named_values {
    ($type:ident, $flag:literal, $($value:ident => $name:literal),+ $(,)?) => {
        impl $crate::named_values::NamedValue for $type {
            const NAMES: &'static [(&'static str, Self)] = &[$(($name, $type::$value)),+];
        }

        impl $type {
            /// Every value, in the order in which help lists them.
            pub const ALL: [$type; [$($name),+].len()] = [$($type::$value),+];

            /// Returns the name on the command line and in settings.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$value => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::error::Error;

            fn from_str(name: &str) -> $crate::error::Result<Self> {
                use $crate::error::{Error, ErrorKind};
                let known = $type::ALL.into_iter().find(|known| known.name() == name);
                known.ok_or_else(|| {
                    let noun = $flag.trim_start_matches('-');
                    let message = format!("{noun} {name:?} is not known");
                    let names = $type::ALL.map(Self::name).join(", ");
                    Error::new(ErrorKind::Usage, message)
                        .hint(format!("give {} one of {names}", $flag))
                })
            }
        }
    };
}

pub(crate) use named_values;
