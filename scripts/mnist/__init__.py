"""The experiment of Wen et al., ECCV 2016: softmax plus center loss on handwritten digits."""
