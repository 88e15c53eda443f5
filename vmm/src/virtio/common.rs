//! The common configuration: the registers by which a driver brings a device up (virtio 1.2, 4.1.4.3).
//!
//! Any read of any width is answered from the structure's bytes. A write counts only if it is one whole
//! field, or one half of a 64-bit field, as 4.1.3.1 demands of drivers; everything else is ignored.

use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::interrupts::{Interrupts, NO_VECTOR};
use super::state::{CommonState, QueueRegistersState, StateError};
use super::status::{FAILED, NEEDS_RESET, Phase, Step};

/// Bytes of the structure up to and with `queue_device`; what follows belongs to features that aren't
/// offered.
pub const COMMON_LEN: usize = 56;
/// VIRTIO_F_VERSION_1 as a mask.
pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// What a write to a register asks of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// To be reset.
    Reset,
    /// To start working.
    Activate,
}

/// The registers.
#[derive(Debug)]
pub struct CommonConfig {
    offered: u64,
    required: u64,
    accepted: u64,
    /// The driver accepted a bit from 64 on: none of them is ever offered.
    accepted_beyond: bool,
    device_feature_select: u32,
    driver_feature_select: u32,
    phase: Phase,
    failed: bool,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
    /// Where the MSI-X vector registers are, if the device sends interrupts.
    interrupts: Option<Arc<Interrupts>>,
}

/// A queue as the driver set it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct QueueRegisters {
    max_size: u16,
    size: u16,
    enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

/// The fields that a driver can write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    DeviceFeatureSelect,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    Status,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueAddress(Ring, Part),
}

/// The three addresses of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ring {
    Descriptors,
    Driver,
    Device,
}

/// What of a 64-bit field a write covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Low,
    High,
    Whole,
}

impl CommonConfig {
    /// The registers of a device that offers `features` and needs `required` of them, after a reset.
    #[must_use]
    pub fn new(features: u64, required: u64, queue_sizes: &[u16]) -> Self {
        Self {
            offered: features | VERSION_1,
            required: required | VERSION_1,
            accepted: 0,
            accepted_beyond: false,
            device_feature_select: 0,
            driver_feature_select: 0,
            phase: Phase::Reset,
            failed: false,
            queue_select: 0,
            queues: queue_sizes.iter().map(|&size| QueueRegisters::new(size)).collect(),
            interrupts: None,
        }
    }

    /// The same registers for a device that sends `interrupts`.
    #[must_use]
    pub fn with_interrupts(self, interrupts: Arc<Interrupts>) -> Self {
        Self { interrupts: Some(interrupts), ..self }
    }

    /// Forgets all that the driver wrote.
    pub fn reset(&mut self) {
        let interrupts = self.interrupts.take();
        if let Some(interrupts) = &interrupts {
            interrupts.forget_vectors();
        }
        *self = Self {
            queues: self.queues.iter().map(|queue| QueueRegisters::new(queue.max_size)).collect(),
            interrupts,
            ..Self::new(self.offered, self.required, &[])
        };
    }

    /// The registers as values.
    #[must_use]
    pub fn state(&self) -> CommonState {
        let queue = |queue: &QueueRegisters| QueueRegistersState {
            size: queue.size,
            enabled: queue.enabled,
            rings: [queue.descriptors, queue.driver, queue.device],
        };
        CommonState {
            feature_select: [self.device_feature_select, self.driver_feature_select],
            accepted: self.accepted,
            accepted_beyond: self.accepted_beyond,
            status: self.status(false),
            queue_select: self.queue_select,
            queues: self.queues.iter().map(queue).collect(),
        }
    }

    /// Gives registers after a reset these values. Answers whether the device is in use.
    ///
    /// # Errors
    /// [`StateError`]; the registers are of no use then.
    pub fn bring_back(&mut self, state: &CommonState) -> Result<bool, StateError> {
        [self.device_feature_select, self.driver_feature_select] = state.feature_select;
        (self.accepted, self.accepted_beyond) = (state.accepted, state.accepted_beyond);
        self.queue_select = state.queue_select;
        let phase = Phase::from_bits(state.status).ok_or(StateError("status"))?;
        let agreed = Phase::Agreed <= phase;
        if agreed && !self.features_agree() || phase < Phase::Driven && state.accepted != 0 {
            return Err(StateError("set of features"));
        }
        if state.queues.len() != self.queues.len() {
            return Err(StateError("number of queues"));
        }
        for (queue, state) in self.queues.iter_mut().zip(&state.queues) {
            let fresh = *queue;
            queue.bring_back(state).ok_or(StateError("queue"))?;
            if !agreed && *queue != fresh {
                return Err(StateError("queue"));
            }
        }
        (self.phase, self.failed) = (phase, state.status & FAILED != 0);
        Ok(phase == Phase::Running)
    }

    /// Whether the device works and its driver hasn't given up on it.
    #[must_use]
    pub fn running(&self) -> bool {
        self.phase == Phase::Running && !self.failed
    }

    /// The features that both sides have, once they agreed.
    #[must_use]
    pub fn agreed_features(&self) -> u64 {
        if self.phase >= Phase::Agreed { self.accepted } else { 0 }
    }

    /// The queues as the driver set them up: `None` for one that it didn't enable.
    #[must_use]
    pub fn build_queues(&self) -> Vec<Option<Queue>> {
        self.queues.iter().map(QueueRegisters::build).collect()
    }

    /// Reads from `offset`. Bytes beyond the structure are left as they are.
    pub fn read(&self, offset: u64, data: &mut [u8], needs_reset: bool, generation: u8) {
        let image = self.image(needs_reset, generation);
        let Some(bytes) = usize::try_from(offset).ok().and_then(|offset| image.get(offset..)) else { return };
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// Writes `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Change {
        let Some(field) = Field::at(offset, data.len()) else { return Change::None };
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        let [low, _] = halves(value);
        let [word, _] = words(low);
        match field {
            Field::Status => return self.write_status(bytes[0]),
            Field::DeviceFeatureSelect => self.device_feature_select = low,
            Field::DriverFeatureSelect => self.driver_feature_select = low,
            Field::DriverFeature => self.write_driver_feature(low),
            Field::ConfigVector => {
                if let Some(interrupts) = &self.interrupts {
                    interrupts.set_config_vector(word);
                }
            }
            Field::QueueSelect => self.queue_select = word,
            Field::QueueVector => {
                if let Some(interrupts) = &self.interrupts {
                    interrupts.set_queue_vector(self.queue_select, word);
                }
            }
            Field::QueueSize => self.with_open_queue(|queue| queue.set_size(word)),
            Field::QueueEnable => self.with_open_queue(|queue| queue.enabled = word == 1),
            Field::QueueAddress(ring, part) => {
                self.with_open_queue(|queue| queue.set_address(ring, part, value));
            }
        }
        Change::None
    }

    fn write_status(&mut self, value: u8) -> Change {
        if value == 0 {
            return Change::Reset;
        }
        let before = self.phase;
        // A driver must not clear a bit (2.1.1): a write that would is not a step of any driver's way.
        if self.failed || before.bits() & !value != 0 {
            return Change::None;
        }
        for step in Step::ORDER {
            if value & step.bit() == 0 || self.phase.bits() & step.bit() != 0 {
                continue;
            }
            match self.phase.after(step) {
                Some(next) if step != Step::FeaturesOk || self.features_agree() => self.phase = next,
                _ => break,
            }
        }
        self.failed = value & FAILED != 0;
        if self.running() && before != Phase::Running { Change::Activate } else { Change::None }
    }

    fn features_agree(&self) -> bool {
        !self.accepted_beyond
            && self.accepted & !self.offered == 0
            && self.accepted & self.required == self.required
    }

    fn write_driver_feature(&mut self, value: u32) {
        if self.phase != Phase::Driven {
            return;
        }
        let [low, high] = halves(self.accepted);
        match self.driver_feature_select {
            0 => self.accepted = join(value, high),
            1 => self.accepted = join(low, value),
            _ => self.accepted_beyond |= value != 0,
        }
    }

    /// Acts on the selected queue, if queues may be set up now and this one isn't enabled yet (4.1.4.3.2).
    fn with_open_queue(&mut self, act: impl FnOnce(&mut QueueRegisters)) {
        if self.phase != Phase::Agreed || self.failed {
            return;
        }
        if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select))
            && !queue.enabled
        {
            act(queue);
        }
    }

    fn image(&self, needs_reset: bool, generation: u8) -> [u8; COMMON_LEN] {
        let queue = self.queues.get(usize::from(self.queue_select));
        let notify_offset = if queue.is_some() { self.queue_select } else { 0 };
        let queue = queue.copied().unwrap_or(QueueRegisters::new(0));
        let (config_vector, queue_vector) =
            self.interrupts.as_ref().map_or((NO_VECTOR, NO_VECTOR), |interrupts| {
                (interrupts.config_vector(), interrupts.queue_vector(self.queue_select))
            });
        let mut image = Image { bytes: [0; COMMON_LEN], at: 0 };
        image.put(&self.device_feature_select.to_le_bytes());
        image.put(&select(self.offered, self.device_feature_select).to_le_bytes());
        image.put(&self.driver_feature_select.to_le_bytes());
        image.put(&select(self.accepted, self.driver_feature_select).to_le_bytes());
        image.put(&config_vector.to_le_bytes());
        image.put(&u16::try_from(self.queues.len()).unwrap_or(u16::MAX).to_le_bytes());
        image.put(&[self.status(needs_reset), generation]);
        image.put(&self.queue_select.to_le_bytes());
        image.put(&queue.size.to_le_bytes());
        image.put(&queue_vector.to_le_bytes());
        image.put(&u16::from(queue.enabled).to_le_bytes());
        image.put(&notify_offset.to_le_bytes());
        image.put(&queue.descriptors.to_le_bytes());
        image.put(&queue.driver.to_le_bytes());
        image.put(&queue.device.to_le_bytes());
        image.bytes
    }

    fn status(&self, needs_reset: bool) -> u8 {
        let failed = if self.failed { FAILED } else { 0 };
        let needs_reset = if needs_reset { NEEDS_RESET } else { 0 };
        self.phase.bits() | failed | needs_reset
    }
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, enabled: false, descriptors: 0, driver: 0, device: 0 }
    }

    fn set_size(&mut self, size: u16) {
        if size.is_power_of_two() && size <= self.max_size {
            self.size = size;
        }
    }

    fn set_address(&mut self, ring: Ring, part: Part, value: u64) {
        let (address, align) = match ring {
            Ring::Descriptors => (&mut self.descriptors, 16),
            Ring::Driver => (&mut self.driver, 2),
            Ring::Device => (&mut self.device, 4),
        };
        let [low, high] = halves(*address);
        let [value_low, _] = halves(value);
        let new = match part {
            Part::Low => join(value_low, high),
            Part::High => join(low, value_low),
            Part::Whole => value,
        };
        if new % align == 0 {
            *address = new;
        }
    }

    /// As if a driver had written it.
    fn bring_back(&mut self, state: &QueueRegistersState) -> Option<()> {
        self.set_size(state.size);
        for (ring, address) in [Ring::Descriptors, Ring::Driver, Ring::Device].into_iter().zip(state.rings) {
            self.set_address(ring, Part::Whole, address);
        }
        self.enabled = state.enabled;
        let taken = self.size == state.size && [self.descriptors, self.driver, self.device] == state.rings;
        (taken && (!self.enabled || self.build().is_some())).then_some(())
    }

    fn build(&self) -> Option<Queue> {
        if !self.enabled {
            return None;
        }
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(self.size).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.device)).ok()?;
        queue.set_ready(true);
        Some(queue)
    }
}

impl Field {
    fn at(offset: u64, len: usize) -> Option<Self> {
        Some(match (offset, len) {
            (0, 4) => Self::DeviceFeatureSelect,
            (8, 4) => Self::DriverFeatureSelect,
            (12, 4) => Self::DriverFeature,
            (16, 2) => Self::ConfigVector,
            (20, 1) => Self::Status,
            (22, 2) => Self::QueueSelect,
            (24, 2) => Self::QueueSize,
            (26, 2) => Self::QueueVector,
            (28, 2) => Self::QueueEnable,
            (32.., _) => {
                let ring = match offset & !7 {
                    32 => Ring::Descriptors,
                    40 => Ring::Driver,
                    48 => Ring::Device,
                    _ => return None,
                };
                let part = match (offset & 7, len) {
                    (0, 4) => Part::Low,
                    (4, 4) => Part::High,
                    (0, 8) => Part::Whole,
                    _ => return None,
                };
                Self::QueueAddress(ring, part)
            }
            _ => return None,
        })
    }
}

/// Bytes of the structure while they are put in order.
struct Image {
    bytes: [u8; COMMON_LEN],
    at: usize,
}

impl Image {
    fn put(&mut self, field: &[u8]) {
        for byte in field {
            self.bytes[self.at] = *byte;
            self.at += 1;
        }
    }
}

/// The 32 of `features` that a select register shows; from 2 on there are none.
fn select(features: u64, select: u32) -> u32 {
    let [low, high] = halves(features);
    match select {
        0 => low,
        1 => high,
        _ => 0,
    }
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn words(value: u32) -> [u16; 2] {
    let [a, b, c, d] = value.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
#[path = "common_tests.rs"]
mod tests;
