package org.hydranet.sample

import android.graphics.Bitmap
import android.graphics.Color
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt

/**
 * The crop rule of training: what stands in description.json as "crop".
 *
 * 1. Turn the picture upright as its EXIF orientation says ([MainActivity]).
 * 2. Cut out the largest centred square.
 * 3. Resize with an antialiased bilinear filter.
 * 4. Round to whole levels, RGB 0..255. Mean and scale are part of the network.
 *
 * The face must fill the picture as it does in the training data: a photograph
 * of a whole person has to be cut to the face first, with some hair and chin.
 * Bitmap.createScaledBitmap takes two neighbours of a pixel however much it
 * shrinks; it is not this filter, and the predictions change with it.
 */
object FaceCrop {
    /** Cuts out the largest centred square. */
    fun square(picture: Bitmap): Bitmap {
        val side = min(picture.width, picture.height)
        return Bitmap.createBitmap(
            picture,
            (picture.width - side) / 2,
            (picture.height - side) / 2,
            side,
            side,
        )
    }

    /** Resizes a square to [size] x [size]. */
    fun resize(square: Bitmap, size: Int): Bitmap {
        val side = square.width
        val pixels = IntArray(side * side)
        square.getPixels(pixels, 0, side, 0, 0, side, side)
        val weights = List(size) { weightsOf(it, side, size) }
        // Across, then down; in float, and rounded once at the end.
        val across = Array(CHANNELS) { FloatArray(side * size) }
        for (y in 0 until side) {
            for (x in 0 until size) {
                val (first, shares) = weights[x]
                for (k in shares.indices) {
                    val pixel = pixels[y * side + first + k]
                    across[0][y * size + x] += shares[k] * Color.red(pixel)
                    across[1][y * size + x] += shares[k] * Color.green(pixel)
                    across[2][y * size + x] += shares[k] * Color.blue(pixel)
                }
            }
        }
        val resized = IntArray(size * size)
        for (y in 0 until size) {
            val (first, shares) = weights[y]
            for (x in 0 until size) {
                val level = IntArray(CHANNELS) { channel ->
                    var sum = 0f
                    for (k in shares.indices) {
                        sum += shares[k] * across[channel][(first + k) * size + x]
                    }
                    sum.roundToInt().coerceIn(0, 255)
                }
                resized[y * size + x] = Color.rgb(level[0], level[1], level[2])
            }
        }
        return Bitmap.createBitmap(resized, size, size, Bitmap.Config.ARGB_8888)
    }

    /** Writes the levels 0..255 row by row, each pixel as red, green, blue. */
    fun levels(image: Bitmap, into: FloatArray) {
        val pixels = IntArray(image.width * image.height)
        image.getPixels(pixels, 0, image.width, 0, 0, image.width, image.height)
        pixels.forEachIndexed { i, pixel ->
            into[CHANNELS * i] = Color.red(pixel).toFloat()
            into[CHANNELS * i + 1] = Color.green(pixel).toFloat()
            into[CHANNELS * i + 2] = Color.blue(pixel).toFloat()
        }
    }

    /**
     * The first source pixel that makes up target pixel [i], and the shares of it
     * and its followers: a triangle around the target's centre, as wide as the
     * picture shrinks, never narrower than one source pixel.
     */
    private fun weightsOf(i: Int, side: Int, size: Int): Pair<Int, FloatArray> {
        val scale = side.toFloat() / size
        val radius = max(scale, 1f)
        val centre = (i + 0.5f) * scale
        val first = max(0, floor(centre - radius).toInt())
        val last = min(side, ceil(centre + radius).toInt()) - 1
        val shares = FloatArray(last - first + 1) { k ->
            max(0f, 1f - abs(first + k + 0.5f - centre) / radius)
        }
        val sum = shares.sum()
        return first to FloatArray(shares.size) { shares[it] / sum }
    }

    private const val CHANNELS = 3
}
