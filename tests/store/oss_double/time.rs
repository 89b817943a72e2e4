//! Seconds since 1970 as dates, in the two forms that object stores use.

/// Year, month, day and day of the week (0 is Sunday) of a day since 1970.
fn date(day: u64) -> (u64, usize, u64, usize) {
    // Years of 400 repeat; March is the first month, so that a leap day ends a year.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = (from_march as usize + 2) % 12 + 1;
    let year = year + 400 * era + u64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1, ((day + 4) % 7) as usize)
}

fn clock(now_s: u64) -> String {
    let s = now_s % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// As in `Date` and `Last-Modified`.
pub(crate) fn http(now_s: u64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day, of_week) = date(now_s / 86_400);
    format!("{}, {day:02} {} {year} {} GMT", DAYS[of_week], MONTHS[month - 1], clock(now_s))
}

/// As in listings.
pub(crate) fn iso(now_s: u64) -> String {
    let (year, month, day, _) = date(now_s / 86_400);
    format!("{year}-{month:02}-{day:02}T{}.000Z", clock(now_s))
}

#[test]
fn dates_follow_the_calendar() {
    assert_eq!(http(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(http(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    assert_eq!(iso(1_795_334_400 + 3723), "2026-11-22T09:02:03.000Z");
    assert_eq!(iso(4_107_542_399), "2100-02-28T23:59:59.000Z");
}
