//! Prime factors, by a table that takes long to make and is quick to ask.

/// The smallest prime factor of each number, 0 for what is prime.
pub(crate) struct Factors {
    smallest: Vec<u32>,
}

impl Factors {
    /// Of the numbers below `numbers` (the sieve of Eratosthenes).
    pub(crate) fn new(numbers: u32) -> Self {
        let mut smallest = vec![0; numbers as usize];
        for prime in (2..).take_while(|prime: &u32| u64::from(*prime).pow(2) < u64::from(numbers)) {
            if smallest[prime as usize] == 0 {
                for multiple in (prime * prime..numbers).step_by(prime as usize) {
                    let entry: &mut u32 = &mut smallest[multiple as usize];
                    if *entry == 0 {
                        *entry = prime;
                    }
                }
            }
        }
        Self { smallest }
    }

    /// The prime factors of any number, the smallest first; none of 0 and 1.
    pub(crate) fn of(&self, number: u64) -> Vec<u64> {
        let mut found = Vec::new();
        let mut rest = number;
        let mut candidate = 2;
        // What the table doesn't have is divided by its primes until it does, or is prime.
        while self.smallest.len() as u64 <= rest && candidate <= rest / candidate {
            while rest.is_multiple_of(candidate) {
                found.push(candidate);
                rest /= candidate;
            }
            candidate += 1;
        }
        while let Some(&smallest @ 1..) = usize::try_from(rest).ok().and_then(|rest| self.smallest.get(rest))
        {
            found.push(smallest.into());
            rest /= u64::from(smallest);
        }
        if 1 < rest {
            found.push(rest);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_prime_and_make_the_number() {
        let (small, large) = (Factors::new(2), Factors::new(10_000));
        for number in (2..3000).chain([99_990_001, 100_000_007 * 3, 1 << 40]) {
            let factors = large.of(number);
            assert_eq!(factors.iter().product::<u64>(), number);
            assert!(factors.is_sorted() && factors.iter().all(|prime| small.of(*prime) == [*prime]));
            assert_eq!(factors, small.of(number));
        }
        assert!(large.of(0).is_empty() && large.of(1).is_empty());
    }
}
