/** The camera, and a sentence for each way in which there is none. */

/** No picture from a camera; the message says why and what to do. */
export class CameraError extends Error {}

/** Opens the camera that looks at the user, where there are several. */
export async function open(): Promise<MediaStream> {
  // Browsers hide it from pages that came neither by HTTPS nor from localhost.
  if (!navigator.mediaDevices) {
    throw new CameraError(
      "The browser gives this page no camera: open it by HTTPS or from localhost, " +
        "or choose a picture instead.",
    );
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "user", width: { ideal: 1280 } },
    });
  } catch (error) {
    throw new CameraError(sentence(error instanceof DOMException ? error.name : ""));
  }
}

/** By the names that https://www.w3.org/TR/mediacapture-streams/ gives. */
function sentence(name: string): string {
  switch (name) {
    case "NotAllowedError":
      return (
        "The camera was not allowed. Allow it for this page in the browser's " +
        "settings, or choose a picture instead."
      );
    case "NotFoundError":
      return "There is no camera on this device. Choose a picture instead.";
    case "NotReadableError":
      return "The camera is in use by another program. Close that, or choose a picture.";
    default:
      return "The camera could not be started. Choose a picture instead.";
  }
}
