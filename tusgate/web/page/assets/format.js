/** Numbers as people read them. */

const UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"];

/** Bytes in decimal units with three digits: 1 byte, 640 bytes, 12.3 MB. */
export function formatBytes(bytes) {
  if (bytes < 1000) return bytes === 1 ? "1 byte" : `${Math.round(bytes)} bytes`;
  const power = Math.min(Math.floor(Math.log10(bytes) / 3), UNITS.length - 1);
  const value = bytes / 1000 ** power;
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${UNITS[power]}`;
}

/** Share of `total` in whole percent, rounded down: 100 means all of it. An empty file is all there. */
export function percent(part, total) {
  return total === 0 ? 100 : Math.floor((part / total) * 100);
}

/** Seconds as the two largest units: 45 s, 3 min 20 s, 2 h 5 min. */
export function formatDuration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
